"""The precision that this machine multiplies fast, found without importing torch."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

AUTO = "auto"
"""Stands for ``fast_dtype()`` wherever a dtype is asked for."""
_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd")
"""There if the driver of an NVIDIA or AMD GPU is loaded."""
_MULTIPLIES_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of processors, x86's and Arm's, with instructions for bfloat16 products."""


def resolve_dtype(dtype: str) -> str:
    """``dtype``, or what fits this machine if it is ``auto``."""
    return fast_dtype() if dtype == AUTO else dtype


@cache
def fast_dtype() -> str:
    """``bfloat16`` on a GPU or a processor with instructions for it, else ``float32``.

    Without them a bfloat16 product takes about a hundred times as long: 1 GFLOP/s where float32 has
    100 (AMD EPYC with AVX2 alone, torch 2.13).
    """
    return "bfloat16" if gpu_device() or _processor_flags() & _MULTIPLIES_BFLOAT16 else "float32"


def why_dtype() -> str:
    """Why ``fast_dtype()`` is what it is."""
    if gpu_device():
        return "there is a GPU"
    flags = sorted(_processor_flags() & _MULTIPLIES_BFLOAT16)
    if flags:
        return f"the processor multiplies it ({', '.join(flags)})"
    return f"no GPU, and the processor has none of {', '.join(sorted(_MULTIPLIES_BFLOAT16))}"


def gpu_device() -> str | None:
    """The device of a GPU that this process may use; None if there is none."""
    if "" in (os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("HIP_VISIBLE_DEVICES")):
        return None
    return next((device for device in _GPU_DEVICES if Path(device).exists()), None)


def _processor_flags() -> set[str]:
    if platform.system() != "Linux":
        return set()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()
