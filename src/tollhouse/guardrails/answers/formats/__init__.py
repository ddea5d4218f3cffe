"""Where the texts are in the answers of each client's format."""
