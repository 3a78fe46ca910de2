"""Environments that others wrote, each played by its own library in a process of its own."""
