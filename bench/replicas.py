"""Two real ``vllm serve`` replicas, one of which is killed in the middle: ``python -m bench.replicas``."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.report import Report, Row, Target, publish
from bench.rollouts_ours import desk_engine, tasks
from bench.rollouts_workload import CONTEXT, MODEL
from grpo_backends.vllm_server import VllmServerBackend
from grpo_host.models.resolve import resolve_model
from grpo_host.rollouts.engine import RolloutMetrics, group_requests
from grpo_sdk.backend import ModelSpec
from grpo_sdk.seeds import derive_seed
from grpo_sdk.trajectory import Trajectory

REPLICAS = 2
TASKS, GROUP = 2, 4
EPISODES = TASKS * GROUP
MAX_TOKENS = 12
RANK = 16


def measure() -> Report:
    """Start, weights, a batch, and a batch in which a replica is killed."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> Report:
    path = resolve_model(MODEL).path
    backend = VllmServerBackend(
        ModelSpec(MODEL, path=path, dtype="float32", context=CONTEXT), replicas=REPLICAS, kv_cache_gib=0.5
    )
    backend.directory = folder
    # Not beside the start: two threads that import transformers come into each other's way.
    adapter = _make_adapter(path, folder / "adapter")
    began = time.perf_counter()
    await backend.start()
    up = time.perf_counter() - began
    _say(f"{REPLICAS} replicas up after {up:.0f} s")
    try:
        await _play(backend, max_tokens=2)
        bare, _ = await _play(backend)
        _say(f"{EPISODES} episodes without an adapter in {bare.seconds:.1f} s")
        synced = []
        for version in (1, 2, 3):
            began = time.perf_counter()
            await backend.update_adapter(adapter, version=version)
            synced.append(time.perf_counter() - began)
        _say(f"new weights on all after {', '.join(f'{seconds:.2f}' for seconds in synced)} s")
        await _play(backend, max_tokens=2)
        whole, _ = await _play(backend)
        _say(f"{EPISODES} episodes in {whole.seconds:.1f} s")
        played, trajectories = await _play(
            backend, lambda: kill_replica(folder / "replicas" / "replica-0.log")
        )
        _say(f"with one killed {dict(played.statuses)} in {played.seconds:.1f} s, {dict(backend.retried)}")
        retried = sum(backend.retried.values())
        gap = await asyncio.to_thread(_gap, path, adapter, trajectories)
    finally:
        await backend.close()
    lost = EPISODES - played.statuses["completed"]
    size = sum(file.stat().st_size for file in adapter.iterdir()) / 1e6
    rows = [
        Row(f"start of {REPLICAS} replicas", up, "s"),
        Row("new weights on all of them", min(synced), "s"),
        Row(f"{EPISODES} episodes without an adapter", bare.seconds, "s"),
        Row(f"{EPISODES} episodes", whole.seconds, "s", whole.seconds / bare.seconds, "without an adapter"),
        Row("the same, one replica killed", played.seconds, "s", played.seconds / whole.seconds, "without"),
        Row("episodes lost", float(lost), "", target=Target("≤", 0)),
        Row("requests sent to the other replica", float(retried), ""),
        Row("largest gap to the trainer's log-prob", gap, "nat", target=Target("≤", 0.001)),
    ]
    return Report(
        "Replicas",
        f"{MODEL} in float32 on {REPLICAS} stock `vllm serve` on this machine, with a LoRA adapter of rank {RANK} "
        f"on all linear layers ({size:.1f} MB), as the backend `vllm_server` starts and asks them: {EPISODES} "
        f"episodes of order_desk with three tool calls, {MAX_TOKENS} tokens a turn, all at once. One replica "
        "is killed (kill -9 of all of its processes) when a third of the turns have been asked for. "
        "The gap is that of sampled log-probs to a plain PEFT forward pass over the same ids.",
        rows,
        [
            "Both replicas share two cores with the client, so two are no faster than one here; what is measured is "
            "that nothing is lost.",
        ],
    )


async def _play(
    backend: VllmServerBackend, at_a_third: Any = None, *, max_tokens: int = MAX_TOKENS
) -> tuple[RolloutMetrics, list[Trajectory]]:
    turns = 0
    generate = backend.generate

    async def counted(*asked: Any) -> Any:
        nonlocal turns
        turns += 1
        if at_a_third is not None and turns == EPISODES * 4 // 3:
            at_a_third()
        return await generate(*asked)

    backend.generate = counted  # type: ignore[method-assign, assignment]
    engine = desk_engine(backend, max_tokens=max_tokens, turns=4, concurrency=EPISODES)
    requests = group_requests(
        tasks()[:TASKS], GROUP, seed=lambda task, n: derive_seed(task.id, n), label="bench"
    )
    try:
        groups, metrics = await engine.run(requests)
    finally:
        backend.generate = generate  # type: ignore[method-assign]
    return metrics, [trajectory for group in groups for trajectory in group]


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def kill_replica(log: Path) -> None:
    """kill -9 of all processes that write to ``log``, but for the guard that this process started."""
    for process in Path("/proc").iterdir():
        try:
            writes = process.name.isdigit() and os.readlink(process / "fd" / "1") == str(log)
            if writes and "process_guard" not in (process / "cmdline").read_text():
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue


def _make_adapter(model: Path, path: Path) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear")
    adapted = get_peft_model(base, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # as after some steps of training; a random one would say nonsense
            torch.nn.init.normal_(parameter, std=1e-3)
    adapted.save_pretrained(path)
    return path


def _gap(model: Path, adapter: Path, played: list[Trajectory]) -> float:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, adapter)
    largest = 0.0
    for trajectory in played[:: max(1, len(played) // 4)]:
        for row in trajectory.ledger.sequences if trajectory.ledger else ():
            ids = torch.tensor([row.ids])
            with torch.no_grad():
                scores = adapted(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            sampled = torch.tensor(row.mask[1:]).bool()
            difference = (scores - torch.tensor(row.logprobs[1:]))[sampled].abs()
            largest = max(largest, float(difference.max()))
    return largest


if __name__ == "__main__":
    publish(measure())
