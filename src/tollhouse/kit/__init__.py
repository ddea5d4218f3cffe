"""What every package needs and no package owns: the clock, ids, and money."""
