"""The guide's service."""
