"""``python -m bench [name…]``: run benches, each in a process of its own, and write docs/BENCHMARKS.md.

A bench that was not run keeps the section that it has.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from bench.report import ROOT, Report

BENCHES = {
    "startup": "start-up of the command line and of the SDK (seconds)",
    "orchestration": "what an episode costs besides the model (a minute)",
    "dialogues": "index and search of 100,000 dialogues (three minutes)",
    "view": "index and opening of a run of 100,000 trajectories (three minutes)",
    "langchain": "CPU of a model turn of LangChain's create_agent with our chat model, beside ChatOpenAI (two minutes)",
    "episodes": "2,000 episodes at once in one process, and the memory of 10,000 (two minutes)",
    "gateway": "event loop's lag with 1,000 episodes at once through the gateway (two minutes)",
    "bridges": "whether bridged environments score as the libraries' own code does (five minutes; make bridges)",
    "rollouts": "trajectories/s of vllm, transformers and TRL's own loop (five minutes)",
    "replicas": "two real vllm serve, one of which is killed in the middle (five minutes)",
    "ahead": "trainings that sample ahead on two real vllm serve, with kills and Ctrl-C (ten minutes)",
    "scaling": "what our side costs an episode with many replicas and ranks (a minute)",
    "grpo_step": "a GRPO step of support_desk against a plain TRL script (ten minutes)",
    "visible_update": "how much of a small LoRA update bfloat16 shows (three minutes)",
    "serving": "what serving adds to a model that answers at once, beside LiteLLM's proxy (a minute)",
    "clients": "tool loops of other people's client libraries, from Python and JavaScript (three minutes)",
    "soak": "ten minutes of chats with a server that is killed in the middle",
    "faults": "episodes in which one in twenty of everything fails: each fault has a record (five minutes)",
    "chaos": "a tiny training with 50 times kill -9, against one that nobody kills (a quarter of an hour)",
    "mix": "ten of reasoning-gym's generators in one run, with a score for each (ten minutes)",
    "examples": "what the examples learn, and how long it takes (three quarters of an hour)",
}
RESULTS = ROOT / "bench" / "results.json"
PAGE = ROOT / "docs" / "BENCHMARKS.md"
HEAD = """# Benchmarks

Written by `python -m bench` (or `make bench`); the raw data are in `bench/results.json`. All figures of
a section come from one run on one machine, peers and limits included: compare ratios, not figures.
"""


def main() -> int:
    """Run what was asked for; 1 where a bench failed or missed a target."""
    if sys.argv[1:2] == ["gpu"]:  # has phases and options of its own, and no place among the CPU's
        from bench.gpu import main as gpu

        return gpu(sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Run benches and write docs/BENCHMARKS.md.",
        epilog="benches: "
        + "; ".join(f"{name}: {what}" for name, what in BENCHES.items())
        + "; gpu: what works on a GPU, and how fast (its own --help)",
    )
    parser.add_argument("names", nargs="*", metavar="name", help="benches to run (default: all)")
    parser.add_argument("--list", action="store_true", help="list the benches and stop")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args()
    if options.list:
        for name, what in BENCHES.items():
            print(f"{name:<14} {what}")
        return 0
    if unknown := [name for name in options.names if name not in BENCHES]:
        parser.error(f"no bench {', '.join(unknown)}; there are: {', '.join(BENCHES)}")
    results: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    failed = False
    for name in options.names or BENCHES:
        print(f"{name}: {BENCHES[name]} …", file=sys.stderr, flush=True)
        report = run(name)
        if report is None:
            failed = True
            continue
        if not options.json:
            report.print()
        failed = failed or any(row.met is False for row in report.rows)
        results[name] = json.loads(report.to_json())
        _write(results)
    if options.json:
        print(json.dumps(results, ensure_ascii=False, indent=1))
    return int(failed)


def run(name: str) -> Report | None:
    """Run one bench in a process of its own; None, with a word on stderr, where it failed."""
    command = [sys.executable, "-m", f"bench.{name}", "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    try:
        if done.returncode:
            raise ValueError(f"exit code {done.returncode}")
        return Report.from_data(json.loads(done.stdout.strip().splitlines()[-1]))
    except (ValueError, KeyError, TypeError, IndexError) as problem:
        print(f"{name}: failed: {problem}\n{done.stdout[-2000:]}", file=sys.stderr)
        return None


def _write(results: dict[str, Any]) -> None:
    """Store ``results`` and the page made of them."""
    ordered = {name: results[name] for name in BENCHES if name in results}
    RESULTS.write_text(json.dumps(ordered, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    sections = [
        Report.from_data(data).to_markdown(f"python -m bench {name}") for name, data in ordered.items()
    ]
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n".join([HEAD, *sections]), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
