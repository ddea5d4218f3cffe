"""The data plane: what a completion call goes through, from the caller's bytes to the settled answer."""
