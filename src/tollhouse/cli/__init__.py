"""The command line. Each module imports what its commands need when they run, so that all of them start fast."""
