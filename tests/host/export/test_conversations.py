"""Served conversations as what a training takes."""

from __future__ import annotations

import asyncio
import json

import pytest

from grpo_host.chat.feedback import Feedback, keep
from grpo_host.chat.sql_store import SqlStore
from grpo_host.chat.store import ConversationRecord
from grpo_host.cli import main
from grpo_host.dialogues import read_demonstrations
from grpo_host.export.conversations import lines_of, trajectory_of
from grpo_host.storage.database import make_engine
from grpo_host.storage.migrations import migrate
from grpo_sdk.messages import assistant, tool_call, tool_result, user
from grpo_sdk.trajectory import Trajectory

CALL = assistant("", [tool_call("lookup", "{}", "call_1")])
TALK = [
    user("hello"),
    assistant("hi"),
    user("and?"),
    CALL,
    tool_result(CALL["tool_calls"][0], "Monday"),
    assistant("It is."),
]
RECORD = ConversationRecord("c1", messages=TALK, context={"tier": "gold"}, owner="shop")
GOOD, BAD = Feedback(1.0), Feedback(0.0)
BETTER = Feedback(correction="It comes on Monday.", model="desk/run")


def rows(format, given=None, chosen=False):
    return [json.loads(line) for line in lines_of(RECORD, given or {}, format, chosen=chosen)]


def said(found):
    return [message["content"] for message in found["messages"]]


def test_what_nobody_scored_is_no_demonstration_unless_it_is_chosen():
    assert rows("demonstration") == rows("task") == []
    [found] = rows("demonstration", chosen=True)
    assert found["messages"] == TALK


def test_a_correction_takes_the_place_of_the_answer():
    [found] = rows("demonstration", {5: BETTER})
    assert said(found)[-1] == "It comes on Monday."
    assert found["messages"][3]["tool_calls"] == CALL["tool_calls"], "what led to it is kept"


def test_what_follows_a_correction_is_left_out():
    [found] = rows("demonstration", {1: Feedback(correction="Good day."), 5: GOOD})
    assert said(found) == ["hello", "Good day."]


@pytest.mark.parametrize("chosen", [True, False])
def test_a_demonstration_ends_before_a_bad_answer(chosen):
    [found] = rows("demonstration", {1: GOOD, 5: BAD}, chosen=chosen)
    assert said(found) == ["hello", "hi"]
    assert rows("demonstration", {1: BAD, 5: GOOD}, chosen=chosen) == []


def test_a_task_asks_what_the_user_asked_with_the_answer_that_was_called_good():
    [found] = rows("task", {5: BETTER})
    assert [message["content"] for message in found["prompt"]] == ["hello", "hi", "and?"]
    assert found["answer"] == "It comes on Monday."
    assert found["context"] == {"tier": "gold"}


def test_a_task_that_nobody_judged_has_no_answer():
    [found] = rows("task", chosen=True)
    assert found["answer"] is None


def test_feedback_has_a_line_an_answer_and_a_correction_is_the_better_one():
    first, second, third = rows("feedback", {1: GOOD, 5: BETTER})
    assert (said(first), first["score"]) == (["hello", "hi"], 1.0)
    assert (said(second)[-1], second["score"]) == ("It is.", 0.0)
    assert (said(third)[-1], third["score"]) == ("It comes on Monday.", 1.0)
    assert third["context"] == {"conversation": "c1", "model": "desk/run", "tier": "gold"}


def test_a_trajectory_is_read_back_with_the_mean_score_as_recorded():
    [line] = lines_of(RECORD, {1: GOOD, 5: BAD}, "trajectory", chosen=False)
    found = Trajectory.from_json(line)
    assert found == trajectory_of(RECORD, {1: GOOD, 5: BAD})
    assert (found.messages, found.recorded, found.task.data) == (
        TALK,
        {"feedback": 0.5},
        {"context": {"tier": "gold"}},
    )


@pytest.fixture
def database(tmp_path, monkeypatch):
    """The URL of a server's database with a conversation of two owners each; the first has a correction."""
    monkeypatch.chdir(tmp_path)
    url = f"sqlite+aiosqlite:///{tmp_path / 'server.db'}"

    async def fill():
        engine = make_engine(url)
        await migrate(engine)
        store = SqlStore.on(engine)
        await store.create(RECORD)
        await store.create(ConversationRecord("c2", messages=TALK[:2], owner="lab"))
        await keep(engine, "c1", 5, BETTER)
        await engine.dispose()

    asyncio.run(fill())
    return url


def test_all_that_was_corrected_is_a_file_that_a_warm_start_names(database, capsys, tmp_path):
    assert main(["export", "all", "--format", "demonstration", "--database", database]) == 0
    assert capsys.readouterr().out == "demonstration.jsonl\n"
    [found] = read_demonstrations(tmp_path / "demonstration.jsonl")
    assert found.messages[-1] == assistant("It comes on Monday.")


def test_one_conversation_is_exported_by_its_id(database, tmp_path):
    out = tmp_path / "one" / "talk.jsonl"
    assert main(["export", "c2", "--format", "trajectory", "--database", database, "--out", str(out)]) == 0
    assert Trajectory.from_json(out.read_bytes()).id == "c2"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["c3", "--format", "task"], "there is no conversation c3"),
        (["c1", "--format", "task", "--owner", "lab"], "there is no conversation c1"),
        (["all", "--format", "feedback", "--owner", "lab"], "nobody has said of an answer what it was worth"),
        (["all", "--format", "feedback", "--push", "me/it"], "--push takes a model"),
        (
            ["all", "--format", "feedback", "--out", "server.db"],
            "server.db exists; delete it, or name another",
        ),
    ],
)
def test_what_cannot_be_exported_is_an_error_that_says_why(database, capsys, given, problem):
    assert main(["export", *given, "--database", database]) != 0
    assert problem in capsys.readouterr().err
