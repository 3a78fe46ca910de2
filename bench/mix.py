"""Ten of reasoning-gym's generators in one run: ``python -m bench.mix [--json] [--run DIR]``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from bench.report import Report, Row, publish

HOST = str(Path(sys.executable).with_name("grpo-host"))
AGENT = """\
name: mix
model: {name: smollm2-135m, context: 512}
backend: {name: vllm, options: {kv_cache_gib: 1.0}}
environment:
  name: reasoning_gym
  options:
    generators: [chain_sum, gcd, lcm, leg_counting, letter_counting, count_bits, simple_equations, isomorphic_strings, ransom_note, spell_backward]
    options: {ransom_note: {max_note_length: 4, max_magazine_length: 8}, chain_sum: {max_digits: 1, max_terms: 2}, spell_backward: {max_word_len: 4}, gcd: {max_value: 20}, lcm: {max_value: 10}, leg_counting: {min_animals: 1, max_animals: 2, max_instances: 3}, count_bits: {max_n: 100}}
    prompt: direct
    train_tasks: 200
    held_out_tasks: 40
rewards: [environment]
sampling: {max_tokens: 16}
training:
  steps: 6
  tasks_per_step: 10
  group_size: 4
  learning_rate: 5.0e-4
  warm_start: {epochs: 1, learning_rate: 1.0e-3, batch: 10, max_demonstrations: 40}
evaluation: {episodes: 40}
"""


def trained() -> Path:
    """The directory of a run, which is left in the temporary folder; its progress goes to stderr."""
    folder = Path(tempfile.mkdtemp(prefix="bench-mix-"))
    (folder / "agent.yaml").write_text(AGENT, encoding="utf-8")
    command = [HOST, "run", str(folder / "agent.yaml"), "--set", f"output={folder}"]
    subprocess.run(command, stdout=sys.stderr, check=True)
    [report] = folder.glob("*/*/report.json")
    return report.parent


def rows(run: Path) -> list[Row]:
    """Held-out and training scores of all and of each generator, and what it took."""
    report: dict[str, Any] = json.loads((run / "report.json").read_text(encoding="utf-8"))
    steps = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [
        Row(f"all ten: held-out score {name.replace('_', ' ')}", report[name]["reward"]["mean"], "")
        for name in ("before", "warm_start", "after")
    ]
    half = len(steps) // 2
    for kind in report["after"]["kinds"]:
        scores = [step.get(f"kinds/{kind}/reward") for step in steps]
        first, last = ([s for s in part if s is not None] for part in (scores[:half], scores[half:]))
        if first and last:
            found.append(Row(f"{kind}: sampled score, first half of the steps", fmean(first), ""))
            found.append(
                Row(f"{kind}: second half", fmean(last), "", fmean(last) - fmean(first), "(difference)")
            )
    seconds = report["seconds"]
    found.append(Row(f"GRPO, {len(steps)} steps of 10 groups of 4", seconds["training"] / 60, "min"))
    return found


def main() -> None:
    """Train, or take the run that was trained, and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--run", type=Path, help="report on this run's directory")
    run = parser.parse_args().run or trained()
    publish(
        Report(
            "A mixture of ten generators",
            "`grpo-host run` with the embedded model on ten of reasoning-gym's generators at once, easy ones; "
            "the score is the library's. Evaluations are greedy, four held-out tasks a generator.",
            rows(run),
            [
                "It shows that such a run trains, with metrics for each generator. 24 episodes a generator and "
                "half are too few to tell what one of them has learned.",
            ],
        )
    )


if __name__ == "__main__":
    main()
