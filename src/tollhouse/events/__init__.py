"""Events: what happened, in one order that every reader can rely on."""
