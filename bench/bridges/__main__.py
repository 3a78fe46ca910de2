"""``python -m bench.bridges [--json] [NAME…]``: episodes on which our evaluation and the library's code agree."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path

from bench.bridges.compare import Comparison, compare_agentdojo, compare_bfcl, compare_tau2, venv
from bench.report import Report, Row, Target, publish

BFCL, AGENTDOJO, TAU2 = 160, 108, 30
COMPARED: dict[str, list[tuple[str, Callable[[Path], Comparison]]]] = {
    "bfcl": [
        ("BFCL base", lambda directory: compare_bfcl(directory, BFCL)),
        ("BFCL miss_param", lambda directory: compare_bfcl(directory, BFCL, "miss_param")),
    ],
    "tau2": [("τ² retail", lambda directory: compare_tau2(directory, TAU2))],
    "agentdojo": [("AgentDojo banking", lambda directory: compare_agentdojo(directory, AGENTDOJO))],
}


def measure(names: list[str]) -> Report:
    """Compare each library that is installed."""
    rows = []
    for name in names or COMPARED:
        if venv(name) is None:
            print(f"no {name}: make bridges", file=sys.stderr)
            continue
        for title, compare in COMPARED[name]:
            with tempfile.TemporaryDirectory() as directory, redirect_stdout(sys.stderr):
                os.chdir(directory)
                found = compare(Path(directory, "run"))
            same = sum(found.ours[task] == facts for task, facts in found.theirs.items())
            count = len(found.theirs)
            rows.append(Row(f"{title}: same verdict", same, f"of {count}", target=Target("≥", count)))
            for key in next(iter(found.theirs.values())):
                total = sum(facts[key] for facts in found.theirs.values())
                rows.append(Row(f"{title}: {key}", total, f"of {count}"))
    return Report(
        "Bridges",
        "`grpo-host eval` on environments of others with a scripted policy that solves some tasks, spoils some "
        "and gives in to some injections, beside the library's own code on the same conversations.",
        rows,
    )


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(prog="python -m bench.bridges", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(COMPARED)} (default: all)")
    publish(measure(parser.parse_args().names))


if __name__ == "__main__":
    main()
