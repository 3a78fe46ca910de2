"""Built-in strategies: who an agent is."""
