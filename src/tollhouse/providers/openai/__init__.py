"""OpenAI, Azure OpenAI, and every OpenAI-compatible server."""
