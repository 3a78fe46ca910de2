"""Taking a trained run away: a directory that stands alone, its model card, and the hub."""
