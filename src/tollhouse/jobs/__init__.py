"""Long AI work: jobs that survive their workers, reports made from templates, dead letters, schedules."""
