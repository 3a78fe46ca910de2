"""The gateway answers whoever holds the key of an episode, while it is played."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import json
import threading
import urllib.error
import urllib.request

import httpx
import pytest

from grpo_host.agents.reply import Reply
from grpo_host.gateway.server import Gateway
from grpo_sdk.backend import FinishReason
from grpo_sdk.errors import ContextOverflowError, ModelError
from grpo_sdk.messages import assistant

BODY = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture
def gateway():
    with contextlib.closing(Gateway()) as made:
        yield made


def ask(gateway: Gateway, key: str, *, path: str = "/chat/completions", body=BODY, seconds: float = 20.0):
    """The status and the answer."""
    sent = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(gateway.url + path, sent, {"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as problem:
        with problem:
            return problem.code, json.load(problem)["error"]


def reply(text: str) -> Reply:
    return Reply(assistant(text), FinishReason.STOP, 3, 2)


async def hello(request, on_text):
    return reply("Hello.")


def test_a_key_is_worth_nothing_once_its_episode_is_over(gateway):
    with gateway.key(hello) as key:
        assert ask(gateway, key)[0] == 200
        assert ask(gateway, key, path="/models", body=None)[0] == 200
    status, problem = ask(gateway, key)
    assert (status, problem["code"]) == (401, "no_episode")


def test_an_answer_sees_the_context_variables_of_its_episode(gateway):
    where: contextvars.ContextVar[str] = contextvars.ContextVar("where")
    where.set("an episode")

    async def tells(request, on_text):
        return reply(where.get("nowhere"))

    with gateway.key(tells) as key:
        _, answer = ask(gateway, key)
    assert answer["choices"][0]["message"]["content"] == "an episode"
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


@pytest.mark.parametrize(
    ("problem", "status", "code"),
    [
        (ContextOverflowError("too long"), 400, "context_length_exceeded"),
        (ModelError("the engine died"), 500, "model_error"),
        (ValueError("a fault of ours"), 500, "model_error"),
    ],
)
def test_what_the_model_fails_of_is_told_and_not_tried_again(gateway, problem, status, code):
    async def fails(request, on_text):
        raise problem

    with gateway.key(fails) as key:
        told, error = ask(gateway, key)
    assert (told, error["code"]) == (status, code)
    assert str(problem) in error["message"]


@pytest.mark.parametrize(
    ("wrong", "param"), [({"mesages": ["x"]}, "mesages"), ({"messages": [{"role": "user"}]}, "messages")]
)
def test_what_is_wrong_with_a_request_is_told_by_its_field(gateway, wrong, param):
    with gateway.key(hello) as key:
        status, error = ask(gateway, key, body={**BODY, **wrong})
    assert (status, error["code"], error["type"]) == (400, "invalid_request", "invalid_request_error")
    assert error["param"].startswith(param)


def test_a_client_that_goes_away_ends_its_answer(gateway):
    ended = threading.Event()

    async def forever(request, on_text):
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    with gateway.key(forever) as key, pytest.raises(TimeoutError):
        ask(gateway, key, seconds=0.3)
    assert ended.wait(20)


def test_a_request_that_is_too_long_is_refused(gateway):
    with gateway.key(hello) as key:
        with contextlib.suppress(ConnectionError, urllib.error.URLError):  # it need not read all of it
            status, _ = ask(gateway, key, body={"model": "m" * (33 * 2**20)})
            assert status == 413
        assert ask(gateway, key)[0] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_hundred_episodes_at_once_are_each_answered_by_their_own(gateway, stream):
    number = contextvars.ContextVar("number")

    async def own(request, on_text):
        await asyncio.sleep(0.01)
        if on_text is not None:
            on_text(f"I am {number.get()}.")
        return reply(f"I am {number.get()}.")

    def opened(stack, n):
        number.set(n)
        return stack.enter_context(gateway.key(own))

    async def told(client, key):
        headers = {"Authorization": f"Bearer {key}"}
        answer = await client.post("/chat/completions", json={**BODY, "stream": stream}, headers=headers)
        if not stream:
            return answer.json()["choices"][0]["message"]["content"]
        events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        return "".join(event["choices"][0]["delta"].get("content", "") for event in events)

    async def all_at_once(keys):
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60, limits=limits) as client:
            return await asyncio.gather(*(told(client, key) for key in keys))

    with contextlib.ExitStack() as stack:
        keys = [contextvars.copy_context().run(opened, stack, n) for n in range(100)]
        heard = asyncio.run(all_at_once(keys))
    assert heard == [f"I am {n}." for n in range(100)]


def test_it_can_be_used_again_after_it_was_closed():
    gateway = Gateway()
    for _ in range(2):
        with gateway.key(hello) as key:
            assert ask(gateway, key)[0] == 200
        gateway.close()
    gateway.close()
