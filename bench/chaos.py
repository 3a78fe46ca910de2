"""A tiny training that is killed again and again: ``python -m bench.chaos [--kills 50 | --places]``.

Each attempt is a process of its own that goes on with ``--resume`` and gets kill -9 after a random time: while
it loads, plays, scores, trains, writes. A run that came to its end so is compared, byte by byte, with one that
nobody killed. With ``--places`` each attempt dies at a place of its own instead, one after another: in the middle
of an episode, of scoring, of a step's updates, of a checkpoint, of a line, of the adapter. Attempts are forked from a process that has imported everything, which is most of a start.
"""

from __future__ import annotations

import argparse
import itertools
import os
import pkgutil
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.report import Report, Row, Target, publish

AGENT = """\
name: chaos
model: {{name: "{model}", context: 128, dtype: float32}}
deterministic: true
backend: transformers
environment: {{name: arithmetic, options: {{train_tasks: 40, held_out_tasks: 4}}}}
rewards: [{{name: length}}]
sampling: {{max_tokens: 6}}
training:
  steps: {steps}
  tasks_per_step: 2
  group_size: 2
  micro_batch: 2
  minibatches: 2
  epsilon_high: 0.3
  learning_rate: 1.0e-2
  lr_schedule: linear
  lora: {{dropout: 0.1}}
  dynamic_sampling: 1
  save_every: 1
  early_stopping: {{every: 2}}
evaluation: {{episodes: 2}}
output: "{output}"
"""


Place = tuple[str, Callable[..., bool]]
PLACES: tuple[Place, ...] = (
    ("grpo_host.rollouts.engine:run_episode", lambda *_, call, **__: call == 2),
    ("grpo_host.rollouts.scoring:RewardSet.score", lambda _, group, **__: group[0].id.startswith("1/")),
    ("torch.optim:AdamW.step", lambda *_, call, **__: call == 2),  # of the two of the first step
    ("grpo_host.training.checkpoints:write_text", lambda *_, **__: True),
    ("grpo_host.runs.directory:append_whole", lambda _, data, **__: b'"id":"2/' in data),
    ("grpo_host.training.policy:replace_directory", lambda path, *_, **__: path.name == "adapter"),
)
"""What kills itself when it is called, and at which of its calls."""


def die_at(place: Place) -> None:
    """Let this process kill itself there; a line is written by half before."""
    target, now = place
    where, _, name = target.rpartition("." if "." in target.partition(":")[2] else ":")
    owner = pkgutil.resolve_name(where)
    real, calls = getattr(owner, name), itertools.count(1)

    def call(*args: Any, **kwargs: Any) -> Any:
        if now(*args, call=next(calls), **kwargs):
            if name == "append_whole":
                real(args[0], args[1][: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(owner, name, call)


@dataclass
class Seen:
    """What the kills came to."""

    kills: int = 0
    runs: int = 0
    """That came to their end after kills, and were compared."""
    before_the_end: int = 0
    """Attempts that ended by themselves."""
    different: list[str] = field(default_factory=list)
    seconds: float = 0.0


def tiny_model(path: Path, **sizes: int) -> Path:
    """A random Llama of two layers, or of other ``sizes``, with the embedded model's tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from grpo_host.models.resolve import resolve_model

    whole = resolve_model("smollm2-135m").path
    assert whole is not None
    path.mkdir()
    for file in whole.iterdir():
        if "token" in file.name or file.suffix in {".jinja", ".txt"}:
            shutil.copy(file, path)
    config = AutoConfig.from_pretrained(whole)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    small |= {"num_key_value_heads": 1, "head_dim": 16}
    config.update({**small, **sizes, "initializer_range": 0.2, "layer_types": None})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(path)
    return path


def attempt(folder: Path, *, resume: bool, place: Place | None = None) -> int:
    """Fork a process that trains as ``folder``'s agent.yaml says, until it comes to ``place``; its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        sink = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        os.setsid()
        from grpo_host.config.load import load_config
        from grpo_host.config.resolve import resolve
        from grpo_host.plugins import load_plugins
        from grpo_host.training.from_yaml import run_training
        from grpo_host.utils.progress import Reporter

        if place is not None:
            die_at(place)
        loaded = load_config(folder / "agent.yaml")
        again = "latest" if resume else None
        code = run_training(resolve(loaded, load_plugins()), resume=again, reporter=Reporter(quiet=True))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def begun(folder: Path) -> bool:
    """Whether there is a run to go on with."""
    return any(folder.glob("runs/chaos/*/agent.yaml"))


def killed_run(
    folder: Path, kills: int, longest: float, seen: Seen, draw: random.Random, places: Sequence[Place] = ()
) -> bool:
    """One run with up to ``kills`` kills, at ``places`` if there are any; False if an attempt failed by itself."""
    while True:
        at = places[seen.kills] if seen.kills < len(places) else None
        pid = attempt(folder, resume=begun(folder), place=at)
        if not places and seen.kills < kills:
            until = time.monotonic() + draw.uniform(0, longest)
            while time.monotonic() < until:
                time.sleep(0.005)
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            seen.kills += 1
            continue
        seen.before_the_end += 1
        return os.waitstatus_to_exitcode(status) == 0


def timeless(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """``metrics`` without what a clock gave: the rest is the same whenever a deterministic run is repeated."""
    clocked = ("seconds", "per_second", "lag")
    return {k: v for k, v in metrics.items() if k != "time" and not any(word in k for word in clocked)}


def facts(folder: Path) -> dict[str, Any]:
    """What two runs of one seed have in common."""
    from grpo_host.runs.directory import RunDirectory

    run = RunDirectory.find(folder / "runs", "chaos")
    metrics = [timeless(line) for line in run.read_metrics()]
    played = sorted((item.id, item.final_text, item.reward) for item in run.read_trajectories())
    report = run.read_report()
    measured = {k: report[k]["reward"]["mean"] for k in ("before", "after")}
    # Early stopping may have given back earlier weights: the last checkpoint has those of the last step.
    last = max(run.checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    return {
        "weights": [(path / "adapter_model.safetensors").read_bytes() for path in (run.adapter, last)],
        "metrics": metrics,
        "episodes": played,
        "measurements": [measured, report["early_stopping"]],
    }


def measure(kills: int, steps: int, minutes: float, seed: int, places: Sequence[Place] = ()) -> Report:
    """Run it once in peace, then with kills, one at each of ``places`` if there are any."""
    import torch

    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    import_all()
    seen, draw, began = Seen(), random.Random(seed), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as directory:
        place = Path(directory)
        pid = os.fork()  # what makes the model must leave no thread behind either
        if not pid:
            tiny_model(place / "model")
            os._exit(0)
        os.waitpid(pid, 0)

        def folder(name: str) -> Path:
            made = place / name
            made.mkdir()
            text = AGENT.format(model=place / "model", steps=steps, output=made / "runs")
            (made / "agent.yaml").write_text(text)
            return made

        peace = folder("peace")
        started = time.monotonic()
        killed_run(peace, 0, 0.0, Seen(), draw)
        alone = time.monotonic() - started
        if not begun(peace):
            raise RuntimeError((peace / "log").read_text())
        wanted = facts(peace)
        while seen.kills < kills and time.monotonic() - began < minutes * 60:
            chaos = folder(f"run{seen.runs}")
            # Long enough for a few steps, so that each attempt comes a little further on average.
            finished = killed_run(chaos, kills, alone * 0.8, seen, draw, places)
            seen.runs += 1
            found = facts(chaos) if finished else {}
            seen.different += [name for name, value in wanted.items() if found.get(name) != value]
            if not finished:
                print((chaos / "log").read_text()[-3000:], file=sys.stderr)
            if places:
                break
    counts = {name: seen.different.count(name) for name in wanted}
    rows = [
        Row("kill -9", seen.kills, "", None, "", Target("≥", kills)),
        Row("runs that were killed, went on and ended", seen.runs, ""),
        *(Row(f"of them with other {name}", n, "", None, "", Target("≤", 0)) for name, n in counts.items()),
        Row("a run that nobody kills", alone, "s"),
    ]
    return Report(
        "Chaos",
        f"A training of a random model of two layers, {steps} steps of four episodes with two updates each, "
        "`deterministic: true`, a checkpoint a step, early stopping. kill -9 after a random time, then "
        "`--resume`, until that many kills are reached; each run that ended is compared to the last bit with "
        "one that nobody killed: weights, lines of metrics.jsonl, episodes, measurements.",
        rows,
    )


def import_all() -> None:
    """What a training imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import trl  # noqa: F401

        import grpo_host.training.trl.grpo
        import grpo_host.training.trl.rollouts  # noqa: F401


def main() -> None:
    """Parse how often to kill, and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument(
        "--places", action="store_true", help="one kill at each of the chosen places, in one run"
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="begin no other run after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sys.argv = [sys.argv[0], *(["--json"] if options.json else [])]
    places = PLACES if options.places else ()
    publish(measure(len(places) or options.kills, options.steps, options.minutes, options.seed, places))


if __name__ == "__main__":
    main()
