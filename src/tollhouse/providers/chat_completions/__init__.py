"""The chat completions format, which OpenAI made and many servers speak (https://platform.openai.com/docs/api-reference/chat).

Servers differ in what they leave out and in how they count, which is why little is taken for granted here.
"""
