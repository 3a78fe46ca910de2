"""The agent behind HTTP and WebSocket: keys, limits, and the features that answer."""
