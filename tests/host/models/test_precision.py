from __future__ import annotations

import pytest

from grpo_host.chat.settings import ModelSettings
from grpo_host.models import precision
from grpo_host.plugins.use import ModelConfig


@pytest.fixture
def machine(monkeypatch):
    """``machine(flags, gpu)`` lets this machine seem to have these processor flags, and a GPU or none."""

    def pretend(flags: str, gpu: bool = False) -> None:
        monkeypatch.setattr(precision, "_processor_flags", lambda: set(flags.split()))
        monkeypatch.setattr(precision, "gpu_device", lambda: "/dev/nvidiactl" if gpu else None)
        precision.fast_dtype.cache_clear()

    yield pretend
    precision.fast_dtype.cache_clear()


@pytest.mark.parametrize(
    ("flags", "gpu", "dtype"),
    [
        ("fma avx avx2", False, "float32"),
        ("avx2 avx512f avx512_bf16", False, "bfloat16"),
        ("avx512f avx512_bf16 amx_bf16 amx_tile", False, "bfloat16"),
        ("fp asimd bf16", False, "bfloat16"),
        ("avx2", True, "bfloat16"),
        ("", False, "float32"),
    ],
)
def test_bfloat16_is_chosen_where_it_is_fast(machine, flags, gpu, dtype):
    machine(flags, gpu)
    assert precision.resolve_dtype("auto") == dtype


def test_the_settings_hold_what_was_chosen(machine):
    machine("avx2")
    assert ModelConfig(name="m").dtype == "float32"
    assert ModelConfig(name="m", dtype="auto").dtype == "float32"
    assert ModelConfig(name="m", dtype="bfloat16").dtype == "bfloat16"
    assert ModelSettings.read({}).dtype == "float32"


def test_a_gpu_that_is_hidden_does_not_count(monkeypatch, tmp_path):
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(precision, "_GPU_DEVICES", (str(tmp_path / "nvidiactl"),))
    assert precision.gpu_device()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert precision.gpu_device() is None


@pytest.mark.skipif(precision.platform.system() != "Linux", reason="reads /proc/cpuinfo")
def test_this_processors_flags_are_found():
    assert precision._processor_flags()
