"""Feedback on answers over HTTP, and what a training takes of conversations."""

from __future__ import annotations

import asyncio
import json

import pytest

from grpo_host.chat.sql_store import SqlStore
from grpo_host.chat.store import ConversationRecord
from grpo_host.serving.access.caller import Scope
from grpo_host.serving.api import chat, conversation_export, conversations, feedback
from grpo_sdk.messages import assistant, user

TALK = [user("hello"), assistant("hi"), user("and?"), assistant("It is.")]
PATH = "/api/conversations/c1/feedback"


class Kept(conversations.Chats):
    """What is kept, without a model to talk to."""

    def __init__(self, services):
        self._services = services
        self.store = SqlStore.on(services.database)


@pytest.fixture
def asked(serving):
    """Asks a server with a conversation of each of two owners: one answer for each request."""

    def ask(*requests, owner="shop", scopes=(Scope.CHAT,)):
        async def scenario():
            endpoints = [*conversation_export.endpoints(), *chat.endpoints(), *feedback.endpoints()]
            async with serving(endpoints=endpoints) as server:
                services = server.services
                services.chat = Kept(services)
                for id, whose in (("c1", "shop"), ("c2", "lab")):
                    await services.chat.store.create(ConversationRecord(id, messages=TALK, owner=whose))
                _, token = await services.keys.create("k", scopes, owner=owner)
                services.keys.forget()
                headers = {"authorization": f"Bearer {token}"}
                found = [
                    await server.client.request(method, path, headers=headers, json=body)
                    for method, path, body in requests
                ]
                services.chat = None
                return found

        return asyncio.run(scenario())

    return ask


def give(path=PATH, **body):
    return "POST", path, body


def exported(format, more="", path="/api/conversations/export"):
    return "GET", f"{path}?format={format}{more}", None


def rows(answer):
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_thumb_is_of_the_last_answer_unless_one_is_named(asked):
    last, first, all_of_it = asked(give(score=1, model="desk"), give(score=0, message=1), ("GET", PATH, None))
    assert last.json() == {"message": 3, "score": 1.0, "correction": None, "model": "desk"}
    assert first.json()["message"] == 1
    assert [(item["message"], item["score"]) for item in all_of_it.json()["feedback"]] == [(1, 0.0), (3, 1.0)]


def test_what_is_said_later_of_an_answer_replaces_what_was_said_and_nothing_takes_it_back(asked):
    *_, corrected, _, none = asked(
        give(score=1), give(correction="It is Monday."), ("GET", PATH, None), give(), ("GET", PATH, None)
    )
    [found] = corrected.json()["feedback"]
    assert (found["score"], found["correction"]) == (None, "It is Monday.")
    assert none.json() == {"feedback": []}


@pytest.mark.parametrize("message", [0, 4])
def test_a_message_that_is_no_answer_is_refused_with_those_that_are(asked, message):
    [refused] = asked(give(score=1, message=message))
    assert refused.status_code == 422
    assert f"message {message} of the conversation is no answer; answers are: 1, 3" in refused.text


@pytest.mark.parametrize("body", [{"score": 2}, {"score": -1}, {"correction": ""}, {"thumb": "up"}])
def test_what_is_no_feedback_is_refused(asked, body):
    [refused] = asked(give(**body))
    assert refused.status_code == 422


def test_feedback_and_training_data_are_the_owner_s_alone(asked):
    theirs = "/api/conversations/c2/feedback"
    answers = asked(give(theirs, score=1), ("GET", theirs, None), exported("task", "&conversation_id=c2"))
    assert [answer.status_code for answer in answers] == [404, 404, 404]


def test_an_owner_takes_what_was_scored_as_training_data(asked):
    _, demonstrations, tasks, scored, trajectories, one = asked(
        give(correction="On Monday."), exported("demonstration"), exported("task"), exported("feedback"),
        exported("trajectory"), exported("demonstration", "&conversation_id=c1"),
    )  # fmt: skip
    [found] = rows(demonstrations)
    assert found["messages"][-1]["content"] == "On Monday."
    assert rows(one) == [found]
    assert [task["answer"] for task in rows(tasks)] == ["On Monday."]
    assert [item["score"] for item in rows(scored)] == [0.0, 1.0]
    assert [item["id"] for item in rows(trajectories)] == ["c1"]


def test_an_admin_takes_another_s(asked):
    path = "/api/owners/conversations"
    [found] = asked(exported("trajectory", "&owner=lab", path), owner="boss", scopes=[Scope.ADMIN])
    assert [item["id"] for item in rows(found)] == ["c2"]


def test_feedback_is_deleted_with_its_conversation(asked):
    *_, again, left = asked(
        give(score=1),
        ("DELETE", "/api/conversations/c1", None),
        ("GET", PATH, None),
        exported("feedback"),
    )
    assert (again.status_code, left.text) == (404, "")
