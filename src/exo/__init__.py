"""A private, OpenAI-compatible LLM endpoint made of the machines you own."""

__version__ = "0.1.0"
