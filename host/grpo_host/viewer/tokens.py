"""Every token of a trajectory: its text, and what the ledger and the trainer know of it."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from grpo_host.viewer.api import given_advantage, record_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from grpo_host.runs.run import Run
    from grpo_host.viewer.viewed import ViewedRun

BROKEN = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer makes of a part of a character."""
LONGEST = 8
"""Tokens that may write one character together."""


def token_view(viewed: ViewedRun, tid: str) -> dict[str, Any]:
    """The sequences of the ledger as parallel arrays. Raises ``RunError``."""
    record = record_of(viewed, tid)
    advantage = given_advantage(viewed, tid)
    tokenizer = tokenizer_of(viewed.run)
    recorded = recorded_tokens(viewed.run, tid)
    sequences = (record.get("ledger") or {}).get("sequences", ())
    return {
        "sequences": [
            _sequence(item, record["messages"], advantage, tokenizer, recorded.get(number, {}))
            for number, item in enumerate(sequences)
        ]
    }


def recorded_tokens(run: Run, tid: str) -> dict[int, dict[str, Any]]:
    """What tokens.jsonl has of a trajectory, by the number of the sequence."""
    marked = b'"id": ' + json.dumps(tid, ensure_ascii=False).encode() + b","
    found = {}
    try:
        with run.directory.tokens.open("rb") as file:
            for line in file:
                if marked in line and line.endswith(b"\n"):
                    value = orjson.loads(line)
                    found[int(value["sequence"])] = value
    except (FileNotFoundError, ValueError, KeyError):
        return found
    return found


def _sequence(
    sequence: dict[str, Any],
    messages: Sequence[dict[str, Any]],
    advantage: float | None,
    tokenizer: Any,
    recorded: dict[str, Any],
) -> dict[str, Any]:
    ids, mask = sequence["ids"], sequence["mask"]

    def known(name: str) -> list[float | None] | None:
        if recorded.get(name) is None:
            return None
        values: list[float | None] = [None] * recorded["start"] + recorded[name] + [None] * len(ids)
        return values[: len(ids)]

    weight = sequence.get("weight", 1.0)
    return {
        "role": sequence.get("role", ""),
        "weight": weight,
        "text": texts(ids, tokenizer),
        "id": ids,
        "trained": [bool(sampled and weight) for sampled in mask],
        "logprob": [
            value if sampled else None for value, sampled in zip(sequence["logprobs"], mask, strict=True)
        ],
        "entropy": known("entropy"),
        "trainer_logprob": known("logprob"),
        "ratio": known("ratio"),
        "advantage": None
        if advantage is None
        else [advantage * weight if sampled else None for sampled in mask],
        "policy_version": _sampled(sequence["versions"], mask),
        "message": message_indices(len(ids), sequence.get("spans", ()), messages),
        "messages": span_messages(ids, mask, sequence.get("spans", ()), tokenizer),
    }


def _sampled(values: Sequence[float], mask: Sequence[int]) -> list[float | None]:
    return [value if sampled else None for value, sampled in zip(values, mask, strict=True)]


def message_indices(
    length: int, spans: Sequence[dict[str, Any]], messages: Sequence[dict[str, Any]]
) -> list[int]:
    """For each token, which message it writes; -1 if that cannot be told.

    A span of several messages, which the template writes as one, counts for the last of them.
    """
    found = [-1] * length
    message = -1
    for number, span in enumerate(spans):
        behind = len(spans) - number - 1
        message += 1
        while message < len(messages) - behind and messages[message]["role"] != span["role"]:
            message += 1
        if message >= len(messages):
            break
        found[span["start"] : span["end"]] = [message] * (span["end"] - span["start"])
    return found


def span_messages(
    ids: Sequence[int], mask: Sequence[int], spans: Sequence[dict[str, Any]], tokenizer: Any
) -> list[dict[str, Any]]:
    """What a sequence holds, message by message, without what a template writes around them."""
    found = []
    for span in spans:
        start, end, role = span["start"], span["end"], span["role"]
        if tokenizer is None:
            text = "".join(texts(ids[start:end], None))
        else:
            text = tokenizer.decode(ids[start:end], skip_special_tokens=True).strip()
            text = text.removeprefix(f"{role}\n").strip()
        found.append({"role": role, "text": text, "sampled": any(mask[start:end])})
    return found


def texts(ids: Sequence[int], tokenizer: Any) -> list[str]:
    """The text of each token. If several write one character, the first has it and the others nothing."""
    if tokenizer is None:
        return [f"⟨{number}⟩" for number in ids]
    found: list[str] = []
    start = 0
    while start < len(ids):
        for count in range(1, min(LONGEST, len(ids) - start) + 1):
            text = tokenizer.decode(ids[start : start + count], skip_special_tokens=False)
            if BROKEN not in text:
                break
        else:
            count, text = 1, tokenizer.decode(ids[start : start + 1], skip_special_tokens=False)
        found += [text, *[""] * (count - 1)]
        start += count
    return found


def tokenizer_of(run: Run) -> Any:
    """The run's tokenizer, if its file is on this machine; no model is loaded."""
    from grpo_host.models.resolve import directory_here

    model = run.config.get("model")
    name = model.get("name") if isinstance(model, dict) else model
    places = [run.directory.whole_model, run.directory.adapter, directory_here(str(name))]
    for place in places:
        if place is not None and (place / "tokenizer.json").is_file():
            return _load(place / "tokenizer.json")
    return None


@lru_cache(4)
def _load(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer, decoders
    except ImportError:
        return None
    tokenizer = Tokenizer.from_file(str(path))
    if isinstance(tokenizer.decoder, decoders.Metaspace):
        tokenizer.decoder = None
    return tokenizer
