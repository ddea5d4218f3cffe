"""What is looked for in what goes to a model and comes back, and what is done about it."""
