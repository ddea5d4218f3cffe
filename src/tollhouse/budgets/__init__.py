"""Caps, what is posted against them, and the reservations that keep them from being overspent."""
