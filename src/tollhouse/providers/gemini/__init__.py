"""Google's Gemini API, as a provider serves it."""
