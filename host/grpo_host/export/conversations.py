"""Served conversations as what a training takes: trajectories, tasks, demonstrations, feedback.

A line of JSON each. Feedback decides what is an example: a correction takes the place of the answer and ends
the conversation there, since what followed answered something else; a bad answer ends it before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import orjson

from grpo_host.chat.feedback import Feedback, is_answer, read
from grpo_host.chat.sql_store import SqlStore
from grpo_host.chat.store import ConversationRecord
from grpo_host.export.formats import Format
from grpo_host.storage.database import make_engine
from grpo_host.storage.migrations import migrate
from grpo_sdk.errors import RunError
from grpo_sdk.messages import Message, assistant
from grpo_sdk.trajectory import Task, Trajectory


def lines_of(
    record: ConversationRecord, given: Mapping[int, Feedback], format: Format, *, chosen: bool
) -> Iterator[bytes]:
    """``record`` in ``format``, with its ends of lines; nothing if it has nothing to show.

    ``chosen``: somebody asked for this conversation, so it is an example though nobody scored it.
    """
    if not record.messages:
        return
    if format == "trajectory":
        yield trajectory_of(record, given).to_json() + b"\n"
        return
    rows = _feedback(record, given) if format == "feedback" else _example(record, given, format, chosen)
    for row in rows:
        yield orjson.dumps(row) + b"\n"


async def stored_lines(url: str, which: str | None, format: Format, owner: str | None) -> list[bytes]:
    """The conversation ``which`` of the database at ``url``, or all (of ``owner``), in ``format``.

    Raises ``RunError`` if there is none, or none that somebody scored where that is needed.
    """
    engine = make_engine(url)
    try:
        await migrate(engine)
        store = SqlStore.on(engine)
        lines: list[bytes] = []
        for id in [which] if which is not None else await store.ids(owner):
            record = await store.get(id)
            if record is None or owner not in (None, record.owner):
                raise RunError(
                    f"there is no conversation {id}; GET /api/conversations lists them, or give all"
                )
            lines += lines_of(record, await read(engine, id), format, chosen=which is not None)
    finally:
        await engine.dispose()
    if not lines:
        raise RunError(
            f"no conversation can be exported as {format}: there are none, or nobody has said of an answer "
            "what it was worth (thumbs in the playground, or POST /api/conversations/ID/feedback)"
        )
    return lines


def trajectory_of(record: ConversationRecord, given: Mapping[int, Feedback]) -> Trajectory:
    """The conversation as a trajectory; the mean score is what the reward ``recorded`` calls ``feedback``."""
    scores = [said.score for said in given.values() if said.score is not None]
    return replace(
        Trajectory.of_messages(record.messages),
        id=record.id,
        task=Task(record.id, {"context": record.context}, split="served"),
        model=next((said.model for said in given.values() if said.model), ""),
        started=record.created,
        seconds=max(0.0, record.updated - record.created),
        recorded={"feedback": sum(scores) / len(scores)} if scores else {},
    )


def _example(
    record: ConversationRecord, given: Mapping[int, Feedback], format: Format, chosen: bool
) -> Iterator[dict[str, Any]]:
    good, judged = _good_part(record, given, chosen)
    if format == "demonstration":
        if good:
            yield {"id": record.id, "messages": good, "metadata": {"context": record.context}}
        return
    asked = good or record.messages
    last = max((index for index, message in enumerate(asked) if message["role"] == "user"), default=None)
    if last is None or not (good or chosen):
        return
    answer = asked[-1]["content"] if judged else None
    yield {"id": record.id, "prompt": asked[: last + 1], "answer": answer, "context": record.context}


def _good_part(
    record: ConversationRecord, given: Mapping[int, Feedback], chosen: bool
) -> tuple[list[Message], bool]:
    """What may be imitated, to the end of an answer, and whether somebody said so of that answer."""
    end, judged = 0, False
    for index, message in enumerate(record.messages):
        said = given.get(index)
        if said and said.correction is not None:
            return [*record.messages[:index], assistant(said.correction)], True
        if said and said.score is not None and not said.is_good:
            break
        if said and said.is_good:
            end, judged = index + 1, True
        elif chosen and is_answer(message):
            end, judged = index + 1, False
    return record.messages[:end], judged


def _feedback(record: ConversationRecord, given: Mapping[int, Feedback]) -> Iterator[dict[str, Any]]:
    """Each answer with its score; a correction is worth 1, and what it corrects 0 unless it has a score."""
    for index, said in given.items():
        score = said.score if said.score is not None else 0.0
        asked = record.messages[:index]
        said_then: list[tuple[Message, float]] = [(record.messages[index], score)]
        if said.correction is not None:
            said_then.append((assistant(said.correction), 1.0))
        for answer, worth in said_then:
            yield {
                "messages": [*asked, answer],
                "score": worth,
                "context": {"conversation": record.id, "model": said.model, **record.context},
            }
