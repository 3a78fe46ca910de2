"""The examples, trained as a user would: ``python -m bench.examples [--json] [--only NAME]``."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.report import ROOT, Report, Row, Target, publish

HOST = str(Path(sys.executable).with_name("grpo-host"))


def train(example: str, *changes: str) -> dict[str, Any]:
    """The report of a run of ``examples/<example>/agent.yaml``; its progress goes to stderr."""
    agent = ROOT / "examples" / example / "agent.yaml"
    with tempfile.TemporaryDirectory(prefix=f"bench-{example}-") as output:
        changed = [part for change in (f"output={output}", *changes) for part in ("--set", change)]
        subprocess.run([HOST, "run", str(agent), *changed], stdout=sys.stderr, check=True)
        [path] = Path(output).glob("*/*/report.json")
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return report


def order_desk() -> list[Row]:
    """Verifiable held-out success before, after the warm start and after GRPO, and a control.

    The control imitates as many more demonstrations of the same kind as fit into the seconds that GRPO took.
    """
    report = train("order_desk")
    before, warm, after = (
        100 * report[name]["success"]["mean"] for name in ("before", "warm_start", "after")
    )
    seconds = report["seconds"]
    shown = report["warm_start_demonstrations"]
    more = round(shown * (1 + seconds["training"] / seconds["warm_start"]))
    control = train(
        "order_desk",
        f"environment.options.train_tasks={more}",
        f"training.warm_start.max_demonstrations={more}",
        "evaluation.after=false",
        *("training.steps=1", "training.tasks_per_step=1", "training.group_size=2", "training.micro_batch=2"),
    )
    imitated = 100 * control["warm_start"]["success"]["mean"]
    minutes = (seconds["warm_start"] + seconds["training"]) / 60
    return [
        Row("order_desk: held-out success before", before, "%", target=Target("≤", 10)),
        Row(f"order_desk: after a warm start on {shown} demonstrations", warm, "%"),
        Row("order_desk: after GRPO", after, "%", target=Target("≥", 60)),
        Row("order_desk: what GRPO adds", after - warm, "points", target=Target("≥", 15)),
        Row(f"order_desk: control, {more} demonstrations in the same time", imitated, "%"),
        Row("order_desk: what GRPO adds to the control", after - imitated, "points", target=Target("≥", 15)),
        Row("order_desk: training, warm start included", minutes, "min", target=Target("≤", 7)),
    ]


def support_desk() -> list[Row]:
    """Mean held-out reward before and after, and the minutes of training."""
    report = train("support_desk")
    before, after = (report[name]["reward"]["mean"] for name in ("before", "after"))
    return [
        Row("support_desk: held-out reward before", before, ""),
        Row("support_desk: held-out reward after", after, ""),
        Row("support_desk: rise", after - before, "", target=Target("≥", 0.3)),
        Row("support_desk: training", report["seconds"]["training"] / 60, "min", target=Target("≤", 6)),
    ]


def langchain_shop() -> list[Row]:
    """Verifiable held-out success of a LangChain app before, after the warm start and after GRPO."""
    report = train("langchain_shop")
    before, warm, after = (
        100 * report[name]["success"]["mean"] for name in ("before", "warm_start", "after")
    )
    minutes = (report["seconds"]["warm_start"] + report["seconds"]["training"]) / 60
    return [
        Row("langchain_shop: held-out success before", before, "%"),
        Row(
            f"langchain_shop: after a warm start on {report['warm_start_demonstrations']} demonstrations",
            warm,
            "%",
        ),
        Row("langchain_shop: after GRPO", after, "%"),
        Row("langchain_shop: rise", after - before, "points", target=Target("≥", 30)),
        Row("langchain_shop: what GRPO adds", after - warm, "points", target=Target("≥", 15)),
        Row("langchain_shop: training, warm start included", minutes, "min", target=Target("≤", 20)),
    ]


EXAMPLES = {"order_desk": order_desk, "support_desk": support_desk, "langchain_shop": langchain_shop}


def main() -> None:
    """Train what is asked for and publish."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(EXAMPLES), help="train one of them")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    options = parser.parse_args()
    chosen = [options.only] if options.only else list(EXAMPLES)
    publish(
        Report(
            "The examples",
            "`grpo-host run` on the examples with the embedded model; evaluations are greedy, on "
            "held-out tasks that share no name, id or wording with those trained on.",
            [row for name in chosen for row in EXAMPLES[name]()],
        )
    )


if __name__ == "__main__":
    main()
