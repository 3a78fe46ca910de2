"""The agent behind HTTP and WebSocket: keys, limits, and the rooms that answer."""
