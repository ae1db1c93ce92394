"""The server: OpenAI's protocol in front of our engine, for every program that speaks it."""
