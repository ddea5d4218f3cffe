"""Google's Gemini API, as a client speaks it."""
