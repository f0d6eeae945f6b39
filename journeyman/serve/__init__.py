"""Serving: an OpenAI-compatible API over the engine, which keeps every episode and hears what became of it."""
