"""One module for each process, and the HTTP they speak."""
