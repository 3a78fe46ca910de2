"""What works on a GPU, and how fast: ``python -m bench gpu [--size 0.5B] [--phases …] [--minutes 8]``.

It needs no download: the model has random weights in the shape of a known one, and the tokenizer of the
embedded model (or of ``--tokenizer DIR``). Each phase is a process with a limit, and what it found is written
before the next begins, so that a run which is cut keeps what it has. Without a GPU it rehearses on the CPU
(``--size tiny``); what the machine lacks is said, never left out silently.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import aiohttp

from bench.report import ROOT, Report, Row, machine

SHAPES = {  # hidden, intermediate, layers, heads, key-value heads: Qwen2.5's; vLLM takes the tiny one's heads of 64
    "tiny": (128, 256, 2, 2, 1),
    "0.5B": (896, 4864, 24, 14, 2),
    "1.5B": (1536, 8960, 28, 12, 2),
}
AGENT = """\
name: gpu
model: {{name: {model}, context: 1024}}
backend: {backend}
environment: {{name: order_desk, options: {{questions: 1}}}}
rewards: [./noise.py:noise]
sampling: {{max_tokens: 64}}
rollouts: {{concurrency: 64}}
training: {{steps: 10, tasks_per_step: 8, group_size: 8, learning_rate: 1.0e-4}}
evaluation: {{episodes: 4}}
output: {folder}
"""
NOISE = '''\
"""A reward that differs within a group: random weights say nothing that could be judged."""

from grpo_sdk import reward


@reward
def noise(trajectory) -> float:
    """The share of vowels."""
    text = trajectory.messages[-1]["content"]
    return sum(letter in "aeiou" for letter in text) / max(1, len(text))
'''
CLIENTS, ASKING, PORT = 32, 30.0, 8971
"""Of the phase ``serve``: clients at once, seconds, and where the server listens."""
HOST = "from grpo_host.cli import main; main()"


TRAINED = "(ends_with_the_end_token or restore_it)"
"""Contract tests that need a model which can speak."""


class Bench:
    """One model, and the folder in which everything about it lies."""

    def __init__(self, model: Path, folder: Path, seconds: float, notes: list[str]) -> None:
        self.model = model
        self.folder = folder
        self.seconds = seconds
        self.notes = notes
        self.engines = ["transformers"] + (["vllm"] if importlib.util.find_spec("vllm") else [])

    def command(self, *words: str, seconds: float | None = None) -> str:
        """What a command prints. Its environment knows the model under the embedded one's name, too."""
        environment = {
            **os.environ,
            "GRPO_BENCH_MODEL": str(self.model),
            "GRPO_MODEL_ALIASES": f"smollm2-135m={self.model}",
        }
        done = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=seconds or self.seconds,
            check=False,
        )
        (self.folder / "last.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        if done.returncode:
            raise RuntimeError(f"{' '.join(words[:3])} ended with {done.returncode}: {done.stderr[-1500:]}")
        return done.stdout

    def _agent(self, engine: str) -> Path:
        """An agent.yaml on ``engine``, in a folder of its own."""
        folder = self.folder / engine
        folder.mkdir()
        (folder / "noise.py").write_text(NOISE, encoding="utf-8")
        agent = folder / "agent.yaml"
        agent.write_text(
            AGENT.format(model=self.model, backend=engine, folder=folder / "runs"), encoding="utf-8"
        )
        return agent

    def contract(self) -> Iterator[Row]:
        """The contract tests of the engines, and those of the layers that the trainer rounds once."""
        for name in ("transformers", "vllm"):
            if name not in self.engines:
                self.notes.append(f"contract tests of {name}: skipped, it is not installed")
                continue
            said = self.command(
                "-m",
                "pytest",
                "-q",
                "tests/plugins/backends/test_token_backends.py",
                "-k",
                f"{name} and not {TRAINED}",
            )
            yield Row(f"contract tests of {name}: passed", _passed(said), "")
        said = self.command("-m", "pytest", "-q", "tests/host/training/test_lora_linear.py")
        yield Row("layers that are rounded once: tests passed", _passed(said), "")

    def rollouts(self) -> Iterator[Row]:
        """The same episodes on each engine and by TRL."""
        found: dict[str, dict[str, Any]] = {}
        for name in ["trl", *self.engines]:
            said = self.command("-m", "bench.rollouts", "--engine", name, seconds=self.seconds / 2)
            found[name] = json.loads(said.strip().splitlines()[-1])
            rate = found[name]["tokens"] / found[name]["seconds"]
            peer = found["trl"]["tokens"] / found["trl"]["seconds"]
            yield Row(f"rollouts, {name}", rate, "tokens/s", rate / peer, "TRL")

    def step(self) -> Iterator[Row]:
        """A GRPO step on canned rollouts, beside plain TRL's."""
        report = json.loads(
            self.command("-m", "bench.grpo_step", "--model", str(self.model), "--json")
            .strip()
            .splitlines()[-1]
        )
        for row in Report.from_data(report).rows:
            yield Row(f"step: {row.name}", row.value, row.unit, row.ratio, row.ratio_to)

    def run(self) -> Iterator[Row]:
        """Ten steps of ``grpo-host run``: time by phase, weight sync, the gap of log-probs, memory."""
        for engine in self.engines:
            agent = self._agent(engine)
            started = time.perf_counter()
            with _gpu_memory() as used:
                self.command("-c", HOST, "run", str(agent), seconds=self.seconds / len(self.engines))
            taken = time.perf_counter() - started
            if used:
                yield Row(f"run, {engine}: most GPU memory", max(used) / 1024, "GiB")
            [metrics] = agent.parent.glob("runs/*/*/metrics.jsonl")
            steps = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
            yield Row(f"run, {engine}: ten steps with start and end", taken, "s")
            for key in sorted({key for step in steps for key in step}):
                values = [step[key] for step in steps[1:] if isinstance(step.get(key), int | float)]
                if values and re.search(r"second|tokens_per|logp_difference|memory|visible", key):
                    yield Row(f"run, {engine}: {key}", fmean(values), "")

    def serve(self) -> Iterator[Row]:
        """Half a minute of requests to ``grpo-host serve``."""
        engine = self.engines[-1]
        agent = self._agent(engine)
        with (self.folder / "serve.log").open("wb") as log:
            server = subprocess.Popen(
                [sys.executable, "-c", HOST, "serve", str(agent), "--port", str(PORT)], stdout=log, stderr=log
            )
        try:
            found = asyncio.run(_asked(self.seconds))
        finally:
            server.terminate()
            server.wait(30)
        seconds = sorted(taken for taken, _ in found)
        name = f"serve, {engine}, {CLIENTS} clients"
        yield Row(f"{name}: sampled", sum(tokens for _, tokens in found) / ASKING, "tokens/s")
        yield Row(f"{name}: p50 of an answer", seconds[len(seconds) // 2], "s")


@contextlib.contextmanager
def _gpu_memory() -> Iterator[list[float]]:
    """MiB in use on the GPU, once a second; nothing without ``nvidia-smi``."""
    used: list[float] = []
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--loop=1"]
    try:
        watch = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
    except FileNotFoundError:
        yield used
        return
    try:
        yield used
    finally:
        watch.terminate()
        lines = watch.communicate()[0].splitlines()
        used += [float(line) for line in lines if line.strip().isdigit()]


async def _asked(patience: float) -> list[tuple[float, int]]:
    """Of each answer its seconds and tokens. Raises ``RuntimeError`` if the server does not come up."""
    found: list[tuple[float, int]] = []
    body = {
        "model": "gpu",
        "messages": [{"role": "user", "content": "Where is my order?"}],
        "max_tokens": 64,
        "temperature": 1.0,
    }

    async def client(session: aiohttp.ClientSession, until: float) -> None:
        while time.perf_counter() < until:
            started = time.perf_counter()
            async with session.post("/v1/chat/completions", json=body) as answer:
                answer.raise_for_status()
                usage = (await answer.json())["usage"]
            found.append((time.perf_counter() - started, usage["completion_tokens"]))

    async with aiohttp.ClientSession(f"http://127.0.0.1:{PORT}") as session:
        gives_up = time.perf_counter() + patience - ASKING
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.post("/v1/chat/completions", json=body) as answer:
                    if answer.ok:
                        break
            if time.perf_counter() > gives_up:
                raise RuntimeError("the server did not answer in time")
            await asyncio.sleep(0.5)
        until = time.perf_counter() + ASKING
        await asyncio.gather(*(client(session, until) for _ in range(CLIENTS)))
    return found


PHASES: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "contract": Bench.contract,
    "rollouts": Bench.rollouts,
    "step": Bench.step,
    "run": Bench.run,
    "serve": Bench.serve,
}


def _passed(said: str) -> int:
    return sum(
        line.count(".") for line in said.splitlines() if re.fullmatch(r"[.sxX]+(\s+\[\s*\d+%\])?", line)
    )


def random_model(size: str, tokenizer: Path, folder: Path) -> Path:
    """A Llama of ``size`` with random weights, in bfloat16."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    hidden, intermediate, layers, heads, kv = SHAPES[size]
    loaded = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(loaded),
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        eos_token_id=loaded.eos_token_id,
        bos_token_id=loaded.bos_token_id,
        pad_token_id=loaded.pad_token_id,
    )
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    path = folder / f"random-{size}"
    model.save_pretrained(path)
    loaded.save_pretrained(path)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the phases; 1 if one failed."""
    import torch

    parser = argparse.ArgumentParser(prog="python -m bench gpu", description=__doc__)
    parser.add_argument(
        "--size", choices=list(SHAPES), default="0.5B" if torch.cuda.is_available() else "tiny"
    )
    parser.add_argument("--phases", default=",".join(PHASES), help="of " + ", ".join(PHASES))
    parser.add_argument("--minutes", type=float, default=8, help="for all phases together")
    parser.add_argument("--tokenizer", type=Path, help="a directory; default: the embedded model's")
    parser.add_argument("--out", type=Path, default=Path("bench-gpu.json"), help="where the figures go")
    options = parser.parse_args(arguments)
    chosen = options.phases.split(",")
    if unknown := [name for name in chosen if name not in PHASES]:
        parser.error(f"no phase {', '.join(unknown)}; there are: {', '.join(PHASES)}")
    if options.tokenizer is None:
        from grpo_host.models.resolve import resolve_model

        options.tokenizer = resolve_model("smollm2-135m").path
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: a rehearsal on the CPU"
    rows: list[Row] = []
    notes: list[str] = []
    ends = time.monotonic() + 60 * options.minutes

    def written() -> Report:
        report = Report(
            f"On a GPU, {options.size}", f"Random weights, order_desk; {where}.", rows, notes, machine()
        )
        options.out.write_text(report.to_json(), encoding="utf-8")
        return report

    failed = False
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder:
        model = random_model(options.size, options.tokenizer, Path(folder))
        for place, name in enumerate(chosen):
            share = (ends - time.monotonic()) / (len(chosen) - place)
            print(f"{name}: at most {share:.0f} s", file=sys.stderr, flush=True)
            bench = Bench(model, Path(tempfile.mkdtemp(dir=folder)), share, notes)
            try:
                for row in PHASES[name](bench):
                    rows.append(row)
                    written()
            except (RuntimeError, subprocess.TimeoutExpired, ValueError, aiohttp.ClientError) as problem:
                failed = True
                notes.append(f"{name}: FAILED, {' '.join(str(problem).split())[-600:]}")
    written().print()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
