"""OpenAI's chat completions, as a client speaks them."""
