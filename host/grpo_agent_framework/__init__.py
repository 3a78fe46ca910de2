"""The usage guide's import paths and names, on top of the host."""
