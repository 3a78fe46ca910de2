"""The usage guide's agents, environments and computational engine."""
