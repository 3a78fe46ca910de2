"""Seeds derived from what is sampled, so that order and concurrency cannot change them."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 31-bit seed from ``parts``, e.g. ``(run, step, task, sample, turn)``; the same on every machine."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1
