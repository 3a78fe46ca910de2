"""Plugins of a third party: ``plugin`` is good, every other module is bad in one way."""
