"""Export a trained run: a self-contained directory, its model card, and the hub."""
