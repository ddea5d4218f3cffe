"""Who may follow events, and which of them."""
