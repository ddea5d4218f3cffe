"""The Responses API, which OpenAI made and DeepSeek serves too."""
