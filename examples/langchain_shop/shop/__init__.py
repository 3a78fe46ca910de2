"""A shop's assistant: an ordinary LangChain app."""
