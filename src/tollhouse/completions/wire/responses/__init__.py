"""OpenAI's Responses API, as clients speak it (https://platform.openai.com/docs/api-reference/responses)."""
