"""Questions to an index: which trajectories, which groups, what of each step."""

from __future__ import annotations

import re
import sqlite3
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from grpo_sdk.errors import RunError

MATCH, END = "\x01", "\x02"
"""Around what a snippet shows as found."""
SNIPPET_WORDS = 24
LISTED = (
    "t.id AS number, t.tid AS id, t.label, t.step, t.split, t.environment, t.task, t.sample, t.reward, "
    "t.success, t.status, t.turns, t.tokens, t.tool_calls, t.tool_errors, t.cut"
)
ORDERS = {
    "newest": "t.id DESC",
    "oldest": "t.id",
    "reward": "t.reward IS NULL, t.reward, t.id",
    "-reward": "t.reward IS NULL, t.reward DESC, t.id",
    "tokens": "t.tokens, t.id",
    "-tokens": "t.tokens DESC, t.id",
    "turns": "t.turns, t.id",
    "-turns": "t.turns DESC, t.id",
    "tool_errors": "t.tool_errors, t.id",
    "-tool_errors": "t.tool_errors DESC, t.id",
}


class Wanted(BaseModel):
    """Which trajectories, in which order."""

    model_config = ConfigDict(extra="forbid")

    q: str = Field("", max_length=1000)
    """Words of messages, tool calls and tool results; those in double quotes stand together."""
    step: str | None = None
    """A training step, or an evaluation: before, warm_start, after, step-10."""
    split: str | None = None
    status: Literal["completed", "truncated", "failed"] | None = None
    task: str | None = None
    tool_error: bool | None = None
    success: bool | None = None
    scored: bool | None = None
    """Whether it has a reward."""
    cut: bool | None = None
    """Whether a reply was cut at ``sampling.max_tokens``."""
    min_reward: float | None = None
    max_reward: float | None = None
    order: Literal[
        "newest", "oldest", "reward", "-reward", "tokens", "-tokens", "turns", "-turns",
        "tool_errors", "-tool_errors",
    ] = "newest"  # fmt: skip
    limit: int = Field(50, ge=1, le=200)
    cursor: str | None = Field(None, pattern=r"^\d{1,12}\.\d{1,12}$")
    """What the page before gave as next."""


def find(database: sqlite3.Connection, wanted: Wanted, advantages: Advantages) -> dict[str, Any]:
    """A page of trajectories, how many there are, and the cursor of the next page."""
    skip, newest = map(int, (wanted.cursor or "0.0").split("."))
    if not newest:
        (newest,) = database.execute("SELECT coalesce(max(id), 0) FROM trajectories").fetchone()
    where, values = _conditions(wanted)
    where.append("t.id <= ?")
    values.append(newest)
    match = words(wanted.q)
    source = "trajectories t"
    if match:
        source = "words JOIN trajectories t ON t.id = words.rowid"
        where.append("words MATCH ?")
        values.append(match)
    condition = " AND ".join(where)
    (total,) = database.execute(f"SELECT count(*) FROM {source} WHERE {condition}", values).fetchone()
    rows = database.execute(
        f"SELECT {LISTED} FROM {source} WHERE {condition} ORDER BY {ORDERS[wanted.order]} LIMIT ? OFFSET ?",
        [*values, wanted.limit, skip],
    ).fetchall()
    snippets = _snippets(database, [row["number"] for row in rows], match)
    given = advantages.of(database, rows)
    left = total - skip - len(rows)
    return {
        "total": total,
        "next": f"{skip + len(rows)}.{newest}" if left > 0 else None,
        "trajectories": [
            {
                **listed(row),
                "group": advantages.group(row),
                "advantage": given[row["id"]],
                "snippet": snippets.get(row["number"], []),
            }
            for row in rows
        ],
    }


def listed(row: sqlite3.Row) -> dict[str, Any]:
    """A row of the index as lists show it."""
    item = {name: row[name] for name in row.keys() if name not in ("number", "sample")}  # noqa: SIM118
    item["success"] = None if row["success"] is None else bool(row["success"])
    label = item.pop("label")
    item["evaluation"] = None if label.isdecimal() else label
    return item


def words(q: str) -> str:
    """``q`` as FTS5's language has it: each word may go on, what is quoted stands together."""
    terms = [
        f'"{phrase}"' if phrase else f'"{word}"*'
        for phrase, word in re.findall(r'"([^"]+)"|([^\s"]+)', q)
        if re.search(r"\w", phrase or word)
    ]
    return " ".join(terms)


def _conditions(wanted: Wanted) -> tuple[list[str], list[Any]]:
    tests: list[tuple[str, Any]] = [
        ("t.label = ?", wanted.step),
        ("t.split = ?", wanted.split),
        ("t.status = ?", wanted.status),
        ("t.task = ?", wanted.task),
        ("t.reward >= ?", wanted.min_reward),
        ("t.reward <= ?", wanted.max_reward),
        ("t.success = ?", wanted.success),
        ("(t.tool_errors > 0) = ?", wanted.tool_error),
        ("(t.cut > 0) = ?", wanted.cut),
        ("(t.reward IS NOT NULL) = ?", wanted.scored),
    ]
    asked = [(text, value) for text, value in tests if value is not None]
    return [text for text, _ in asked], [value for _, value in asked]


def _snippets(database: sqlite3.Connection, numbers: Sequence[int], match: str) -> dict[int, list[list[Any]]]:
    marks = ",".join("?" * len(numbers))
    if not match:
        rows = database.execute(
            f"SELECT id, substr(text, 1, 240) AS text FROM texts WHERE id IN ({marks})", numbers
        )
        return {row["id"]: [[row["text"], False]] for row in rows}
    rows = database.execute(
        f"SELECT rowid AS id, snippet(words, 0, ?, ?, '…', {SNIPPET_WORDS}) AS text FROM words "
        f"WHERE words MATCH ? AND rowid IN ({marks})",
        [MATCH, END, match, *numbers],
    )
    return {row["id"]: _marked(row["text"]) for row in rows}


def _marked(text: str) -> list[list[Any]]:
    parts = []
    for piece in re.split(f"({MATCH}[^{END}]*{END})", text):
        if piece:
            parts.append([piece.strip(MATCH + END), piece.startswith(MATCH)])
    return parts


class Advantages:
    """GRPO's advantages: of rewards within a group, as the run's settings say."""

    def __init__(self, training: dict[str, Any]) -> None:
        self.group_size = int(training.get("group_size") or 0)
        self._scale = training.get("scale_rewards", "group")

    def group(self, row: sqlite3.Row) -> str | None:
        """The id of the group; None of an evaluation's episode. If a task comes twice in a step, a
        number tells the groups apart."""
        if row["step"] is None or not self.group_size:
            return None
        again = row["sample"] // self.group_size
        return f"{row['step']}/{row['task']}" + (f"/{again}" if again else "")

    def of(self, database: sqlite3.Connection, rows: Iterable[sqlite3.Row]) -> dict[str, float | None]:
        """By a trajectory's id: its advantage; None if it has none."""
        rows = list(rows)
        steps = {row["label"] for row in rows if row["step"] is not None}
        members = self.members(database, steps, {row["task"] for row in rows})
        deviation = self._batch(database, steps) if self._scale == "batch" else {}
        given: dict[str, float | None] = {}
        for row in rows:
            rewards = [item["reward"] for item in members.get(self.group(row) or "", ())]
            scored = [value for value in rewards if value is not None]
            given[row["id"]] = None
            if row["reward"] is None or not scored:
                continue
            spread = deviation.get(row["label"], statistics.stdev(scored) if len(scored) > 1 else 0.0)
            centred = row["reward"] - statistics.fmean(scored)
            given[row["id"]] = centred if self._scale == "none" else centred / (spread + 1e-4)
        return given

    def members(
        self, database: sqlite3.Connection, labels: Iterable[str], tasks: Iterable[str] | None = None
    ) -> dict[str, list[sqlite3.Row]]:
        """The groups of steps, by their ids, each in the order of its samples."""
        labels = list(labels)
        condition = f"t.label IN ({','.join('?' * len(labels))}) AND t.step IS NOT NULL"
        chosen = list(tasks) if tasks is not None else []
        if tasks is not None:
            condition += f" AND t.task IN ({','.join('?' * len(chosen))})"
        groups: dict[str, list[sqlite3.Row]] = defaultdict(list)
        for row in database.execute(
            f"SELECT {LISTED} FROM trajectories t WHERE {condition} ORDER BY t.step, t.task, t.sample",
            [*labels, *chosen],
        ):
            if (group := self.group(row)) is not None:
                groups[group].append(row)
        return groups

    def _batch(self, database: sqlite3.Connection, labels: Iterable[str]) -> dict[str, float]:
        found = {}
        for label in labels:
            values = [
                value
                for (value,) in database.execute(
                    "SELECT reward FROM trajectories WHERE label = ? AND reward IS NOT NULL", (label,)
                )
            ]
            found[label] = statistics.stdev(values) if len(values) > 1 else 0.0
        return found


def one(database: sqlite3.Connection, tid: str) -> sqlite3.Row:
    """The row of a trajectory. Raises ``RunError`` if there is none."""
    row: sqlite3.Row | None = database.execute(
        f"SELECT {LISTED}, t.file, t.offset, t.length FROM trajectories t WHERE t.tid = ? ORDER BY t.id DESC",
        (tid,),
    ).fetchone()
    if row is None:
        raise RunError(f"the run has no trajectory {tid}")
    return row
