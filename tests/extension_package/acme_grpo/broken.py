"""A plugin that cannot be imported."""

raise ImportError("No module named 'acme_missing_dependency'")
