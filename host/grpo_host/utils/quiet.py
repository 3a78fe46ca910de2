"""Silence start-up messages of libraries that a user of the command line can do nothing about."""

from __future__ import annotations

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Keep them off the terminal. Call before torch is imported; the user's own settings win."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # vLLM: how it binds memory to NUMA nodes
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers: weights read within a blink
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)  # no Triton on CPU
    # vLLM opens a process group of one in the trainer's process; the trainer wonders at it.
    logging.getLogger("transformers.training_args").addFilter(_unless_process_group)
    if not os.environ.get("PYTHONWARNINGS"):
        warnings.filterwarnings("ignore", r".*torch\.distributed\.reduce_op", FutureWarning)
        warnings.filterwarnings("ignore", r".*torch\.jit\.script_method", DeprecationWarning)


def _unless_process_group(record: logging.LogRecord) -> bool:
    return "process group is initialized" not in record.getMessage()
