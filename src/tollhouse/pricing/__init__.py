"""What a call costs, and the most it can cost: integer rates, configured or from a price catalogue."""
