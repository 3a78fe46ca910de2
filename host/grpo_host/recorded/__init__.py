"""What tools, judges and hosted models answered in a run: kept, and played again without them."""
