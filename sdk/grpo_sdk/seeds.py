"""Derive seeds from what is sampled, and protect the global generators of Python, NumPy and PyTorch."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def derive_seed(*parts: int | str) -> int:
    """A 31-bit seed from ``parts``, e.g. ``(run, step, task, sample, turn)``; the same on every machine."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1


@contextmanager
def global_generators_kept() -> Iterator[None]:
    """Run code that seeds the global generators, as engines and trainers do, and undo that afterwards.

    They belong to the whole program: trace ids, retries and the caller's own draws come from them.
    Afterwards they go on from a number drawn before, so a caller who has seeded them gets the same
    again, and one who has not gets other numbers in each process. Their state is not put back: other
    threads may have drawn from it meanwhile, and would draw the same numbers once more.
    """
    import numpy as np

    torch = sys.modules.get("torch")  # one that is loaded later has no state of the caller's yet
    python, numpy = random.getrandbits(256), np.random.randint(0, 2**32, 8, dtype=np.uint32)
    pytorch = int(torch.randint(2**62, ())) if torch else 0
    try:
        yield
    finally:
        random.seed(python)
        np.random.seed(numpy)
        if torch:  # the CPU's alone: a GPU's is the engine's own
            torch.default_generator.manual_seed(pytorch)
