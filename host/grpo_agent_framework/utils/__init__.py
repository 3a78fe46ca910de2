"""The usage guide's services: monitoring and caching."""
