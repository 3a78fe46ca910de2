"""Whether bridged environments score as the libraries' own code does: ``python -m bench.bridges``."""
