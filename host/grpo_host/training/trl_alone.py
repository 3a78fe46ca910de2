"""TRL without the vLLM engine, which importing its GRPO trainer imports where it is installed.

Our backends sample, and TRL's own vLLM is never used. Importing it takes two fifths of the processor's
seconds in which a training process starts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def trl_without_vllm() -> Iterator[None]:
    """What is imported of TRL within finds no vLLM; if TRL's own vLLM is used later, an error says why."""
    from trl import import_utils

    importing = True

    def left_out(**_: str) -> bool:
        if importing:
            return False
        raise ImportError(
            "TRL's own vLLM (use_vllm) was left out as grpo_host imported TRL's trainer. To use it in the "
            "same process, import trl.generation.vllm_generation before grpo_host's training"
        )

    known, import_utils.is_vllm_available = import_utils.is_vllm_available, left_out
    try:
        yield
    finally:
        importing = False
        import_utils.is_vllm_available = known
