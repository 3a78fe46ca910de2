"""Benchmarks: ratios measured in one run, against the limit or a peer. ``python -m bench`` runs them all.

Each module is a bench of its own: ``python -m bench.startup`` prints its table, with ``--json`` its data.
"""
