"""The usage guide's reward functions."""
