"""For tests of plugins: fixtures for pytest, and a host with only one plugin."""
