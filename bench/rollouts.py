"""Rollouts of order_desk on three engines: ``python -m bench.rollouts [--json] [--engine NAME]``.

The untrained model never calls a tool, so the work is made equal by decree: the first three
completions of every episode count as look-ups of its order and the fourth as the answer, whatever
they say. All engines sample the same model with the same prompts, tool and limits.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict

from bench.report import ROOT, Report, Row, Target, publish
from bench.rollouts_workload import DTYPE, EPISODES, GROUP, LOOKUPS, MAX_TOKENS, MODEL, TASKS, TURNS, Measured


def _vllm() -> Measured:
    from bench.rollouts_ours import measure

    return measure("vllm")


def _transformers() -> Measured:
    from bench.rollouts_ours import measure

    return measure("transformers")


def _trl() -> Measured:
    from bench.rollouts_trl import measure

    return measure()


ENGINES: dict[str, Callable[[], Measured]] = {"vllm": _vllm, "transformers": _transformers, "trl": _trl}
ROUNDS = 2
NAMES = {
    "vllm": "rollout engine on `vllm`",
    "transformers": "rollout engine on `transformers`",
    "trl": "TRL's `environment_factory`",
}


def compare() -> Report:
    """Each engine in a process of its own, in turns; the best round of each: others on the machine only add."""
    rounds = [{name: _in_subprocess(name) for name in ENGINES} for _ in range(ROUNDS)]
    measured = {name: min((r[name] for r in rounds), key=lambda item: item.seconds) for name in ENGINES}
    speed = {name: EPISODES / item.seconds for name, item in measured.items()}
    rows = [
        Row(
            f"{NAMES['vllm']}, against {NAMES[peer]}",
            speed["vllm"],
            "trajectories/s",
            speed["vllm"] / speed[peer],
            peer,
            Target("≥", 3, "ratio"),
        )
        for peer in ("transformers", "trl")
    ]
    for name in ("transformers", "trl"):
        rows.append(Row(NAMES[name], speed[name], "trajectories/s", speed[name] / speed["trl"], "trl"))
    for name, item in measured.items():
        rows.append(Row(f"{NAMES[name]}: sampled", item.tokens / item.seconds, "tokens/s"))
    return Report(
        "Rollouts of order_desk",
        f"{EPISODES} episodes at once ({TASKS} tasks, {GROUP} samples each) of {TURNS} model turns and "
        f"{LOOKUPS} look-ups; {MODEL} in {DTYPE}, temperature 1, at most {MAX_TOKENS} tokens a turn. The "
        "untrained model calls no tools, so on every engine the first three completions count as look-ups "
        "of the episode's order, whatever they say, and the fourth as the answer: equal work, real tool "
        "results. TRL 1.16 runs its own tool loop with transformers' generate, without an adapter, and only "
        f"its generation is timed. Best of {ROUNDS} rounds.",
        rows,
        [
            f"{NAMES[name]}: {item.seconds:.1f} s, {item.tokens} tokens in {item.turns} turns"
            for name, item in measured.items()
        ],
    )


def _in_subprocess(engine: str) -> Measured:
    command = [sys.executable, "-m", "bench.rollouts", "--engine", engine]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    measured = Measured(**json.loads(done.stdout.strip().splitlines()[-1]))
    if measured.turns != EPISODES * TURNS:
        raise RuntimeError(f"{engine}: {measured.turns} turns instead of {EPISODES * TURNS}")
    return measured


def main() -> None:
    """All engines, or one."""
    parser = argparse.ArgumentParser(prog="python -m bench.rollouts", description=__doc__)
    parser.add_argument("--engine", choices=list(ENGINES), help="measure this one only, here, and print JSON")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    engine = parser.parse_args().engine
    if engine:
        print(json.dumps(asdict(ENGINES[engine]())), flush=True)
    else:
        publish(compare())


if __name__ == "__main__":
    main()
