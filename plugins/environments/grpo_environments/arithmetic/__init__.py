"""arithmetic: problems with one right number."""
