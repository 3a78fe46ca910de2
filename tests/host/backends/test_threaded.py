from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from grpo_host.backends.threaded import ThreadedBackend
from grpo_sdk import Sampling, TokenReply, user
from grpo_sdk.testing import ScriptedBackend


class Bound(ScriptedBackend):
    """Works in the loop that started it alone, as most backends do."""

    closed = False

    async def start(self):
        self.loop = asyncio.get_running_loop()

    async def chat(self, messages, sampling, tools=()):
        assert asyncio.get_running_loop() is self.loop
        return await super().chat(messages, sampling, tools)

    async def close(self):
        self.closed = True


class Failing(Bound):
    async def chat(self, messages, sampling, tools=()):
        raise ValueError("broken")

    async def stream(self, messages, sampling, tools=()):
        yield "One"
        raise ValueError("broken")


class Endless(Bound):
    left = threading.Event()

    async def chat(self, messages, sampling, tools=()):
        try:
            await asyncio.Event().wait()
        finally:
            self.left.set()

    async def stream(self, messages, sampling, tools=()):
        try:
            while True:
                yield "again "
                await asyncio.sleep(0)
        finally:
            self.left.set()


@pytest.fixture
def carried():
    made = []

    def make(inner):
        backend = ThreadedBackend(inner)
        made.append(backend)
        asyncio.run(backend.start())
        return backend

    yield make
    for backend in made:
        asyncio.run(backend.close())


def say(backend):
    return backend.chat([user("Hi")], Sampling())


def test_it_is_called_from_one_loop_after_another(carried):
    backend = carried(Bound())
    assert [asyncio.run(say(backend)).message["content"] for _ in range(2)] == [
        "Hello! How can I help you?"
    ] * 2


def test_it_can_do_what_the_backend_can(carried):
    backend = carried(Bound())
    assert backend.capabilities == ScriptedBackend.capabilities
    assert backend.model is backend.inner.model


def test_what_the_backend_raises_is_raised(carried):
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(say(carried(Failing())))


def test_a_stream_comes_piece_by_piece(carried):
    async def gather(backend):
        return [item async for item in backend.stream([user("Hi")], Sampling())]

    *pieces, reply = asyncio.run(gather(carried(Bound(replies=["one two"]))))
    assert pieces == ["one", " two"]
    assert reply.message["content"] == "one two"


def test_a_stream_that_breaks_raises_behind_what_came(carried):
    async def gather(backend, got):
        async for item in backend.stream([user("Hi")], Sampling()):
            got.append(item)

    got = []
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(gather(carried(Failing()), got))
    assert got == ["One"]


@pytest.mark.parametrize("streaming", [False, True])
def test_a_caller_who_leaves_ends_the_call(carried, streaming):
    backend = carried(Endless())
    backend.inner.left.clear()

    async def leave():
        if streaming:
            stream = backend.stream([user("Hi")], Sampling())
            await anext(stream)
            await stream.aclose()
        else:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(say(backend), 0.05)

    asyncio.run(leave())
    assert backend.inner.left.wait(5)


def test_ids_are_streamed_too(fakes, carried):
    async def gather(backend):
        return [item async for item in backend.stream_ids([5], Sampling())]

    backend = carried(fakes.TokenBackend(fakes.PieceTokenizer(), "hello"))
    ids, reply = asyncio.run(gather(backend))
    assert isinstance(reply, TokenReply)
    assert ids == reply.ids


def test_a_backend_that_nobody_holds_any_more_is_closed():
    inner = Bound()
    backend = ThreadedBackend(inner)
    thread = backend._engine.thread._thread
    asyncio.run(backend.start())
    del backend
    gc.collect()
    thread.join(5)
    assert inner.closed
    assert not thread.is_alive()
