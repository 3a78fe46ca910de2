"""agent.yaml: its shape, reading it, checking it, writing it back."""
