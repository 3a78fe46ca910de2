"""Tools that are opened and closed together."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import asynccontextmanager

import pytest

from grpo_sdk import ToolBundle, ToolsLostError, tool_call
from grpo_sdk import bundles as bundles_module
from grpo_sdk.bundles import RESTARTS, EpisodeTools, LiveBundle, as_bundle, bundle_schemas, tools_of_answer
from grpo_sdk.errors import PluginError
from grpo_sdk.toolbox import Toolbox
from grpo_sdk.tools import ToolLimits


class Shop:
    """Counts what is opened and closed; each opening has a basket of its own."""

    def __init__(self, per: str = "episode") -> None:
        self.opened = self.closed = 0
        self.bundle = ToolBundle(self.open, per=per)

    @asynccontextmanager
    async def open(self):
        self.opened += 1
        basket: list[str] = []

        def put(item: str) -> list[str]:
            """Put an item into the basket."""
            basket.append(item)
            return basket

        async def count() -> int:
            """Count the items."""
            return len(basket)

        try:
            yield [put, count]
        finally:
            self.closed += 1

    async def live(self) -> LiveBundle:
        found = LiveBundle('tool "shop"', self.bundle, await bundle_schemas("shop", self.bundle))
        self.opened = self.closed = 0
        return found


async def said(live: LiveBundle, name: str, **arguments) -> str:
    """What the model is told."""
    [(message, _)] = await Toolbox(live.tools, ToolLimits(seconds=1)).run(
        [tool_call(name, json.dumps(arguments), "call_1")]
    )
    return message["content"]


async def test_the_tools_of_a_bundle_are_known_before_it_is_used():
    shop = Shop()
    live = await shop.live()
    assert [tool.name for tool in live.tools] == ["put", "count"]
    assert (shop.opened, shop.closed) == (0, 0)


async def test_each_episode_has_tools_of_its_own_and_they_are_closed_at_its_end():
    shop = Shop()
    live = await shop.live()

    async def episode(*items: str) -> str:
        async with EpisodeTools():
            for item in items:
                await said(live, "put", item=item)
            return await said(live, "count")

    assert await asyncio.gather(episode("kettle"), episode("pan", "cup")) == ["1", "2"]
    assert (shop.opened, shop.closed) == (2, 2)


async def test_an_episode_that_calls_no_tool_opens_nothing():
    shop = Shop()
    await shop.live()
    async with EpisodeTools():
        pass
    assert shop.opened == 0


async def test_a_bundle_per_run_is_opened_once_and_shared_by_its_episodes():
    shop = Shop("run")
    live = await shop.live()
    await live.start()
    for item in ("kettle", "pan"):
        async with EpisodeTools():
            await said(live, "put", item=item)
    assert await said(live, "count") == "2"
    assert (shop.opened, shop.closed) == (1, 0)
    await live.close()
    assert shop.closed == 1


async def test_an_answer_outside_of_an_episode_has_tools_of_its_own():
    shop = Shop()
    live = await shop.live()
    async with tools_of_answer():
        async with tools_of_answer():  # within it, nothing new
            await said(live, "put", item="kettle")
        assert await said(live, "count") == "1"
    async with tools_of_answer():
        assert await said(live, "count") == "0"


async def test_a_tool_of_an_episode_that_is_called_outside_of_one_says_so():
    live = await Shop().live()
    assert "this call belongs to none" in await said(live, "count")


@pytest.mark.parametrize("kind", ["function", "coroutine", "context"])
async def test_a_bundle_is_opened_by_a_function_a_coroutine_or_a_context_manager(kind):
    def tool() -> str:
        """Say hello."""
        return "hello"

    async def coroutine():
        return [tool]

    @asynccontextmanager
    async def context():
        yield tool

    bundle = ToolBundle({"function": lambda: [tool], "coroutine": coroutine, "context": context}[kind])

    live = LiveBundle("hello", bundle, await bundle_schemas("hello", bundle))
    assert await said(live, "tool") == "hello"
    await live.close()


def test_a_factory_may_itself_be_a_coroutine_or_a_context_manager():
    async def factory():
        return []

    @asynccontextmanager
    async def context():
        yield []

    assert as_bundle(factory(), factory) == ToolBundle(factory)
    assert as_bundle(context(), context) == ToolBundle(context)
    assert as_bundle(len, len) is None


async def test_opening_and_closing_happen_in_one_task():
    tasks = []

    @asynccontextmanager
    async def context():
        tasks.append(asyncio.current_task())
        yield [said_nothing]
        tasks.append(asyncio.current_task())

    def said_nothing() -> str:
        """Say nothing."""
        return ""

    bundle = ToolBundle(context)
    await bundle_schemas("one", bundle)
    assert tasks[0] is tasks[1]


async def test_a_bundle_that_cannot_be_opened_is_named_with_the_cause():
    async def broken():
        raise OSError("no such server")

    with pytest.raises(PluginError, match='tool "shop" could not be opened: OSError: no such server'):
        await bundle_schemas('tool "shop"', ToolBundle(broken))


async def test_opening_has_a_time_limit():
    with pytest.raises(PluginError, match=r"could not be opened: it took more than 0.02 s"):
        await bundle_schemas("slow", ToolBundle(lambda: asyncio.sleep(9), seconds=0.02))


async def test_opening_does_not_count_as_time_of_the_call():
    async def slow():
        await asyncio.sleep(0.1)
        return [tool]

    def tool() -> str:
        """Say hello."""
        return "hello"

    bundle = ToolBundle(slow)
    live = LiveBundle("slow", bundle, await bundle_schemas("slow", bundle))
    [(message, _)] = await Toolbox(live.tools, ToolLimits(seconds=0.05)).run([tool_call("tool", "", "c")])
    assert message["content"] == "hello"
    await live.close()


async def test_two_tools_of_one_name_are_refused():
    def tool() -> str:
        """Say hello."""
        return "hello"

    with pytest.raises(PluginError, match='two of its tools are called "tool"'):
        await bundle_schemas("twice", ToolBundle(lambda: [tool, tool]))


async def test_a_tool_that_two_episodes_would_share_is_refused():
    def shared() -> str:
        """Say hello."""
        return "hello"

    bundle = ToolBundle(lambda: [shared], per="episode")
    live = LiveBundle("shared", bundle, await bundle_schemas("shared", bundle))

    async def episode(others: asyncio.Event) -> str:
        async with EpisodeTools():
            answer = await said(live, "shared")
            others.set()
            await both.wait()
            return answer

    first, both = asyncio.Event(), asyncio.Event()
    one = asyncio.create_task(episode(first))
    await first.wait()
    answers = await asyncio.gather(one, episode(both))
    assert answers[0] == "hello"
    assert 'gave the same tool "shared" to two episodes' in answers[1]
    async with EpisodeTools():  # the others have ended
        assert await said(live, "shared") == "hello"


class Fragile:
    """A bundle whose server dies as soon as it is asked, the first ``times``."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.opened = 0

    def open(self):
        self.opened += 1

        def ask() -> str:
            """Ask the server."""
            if self.opened <= self.times:
                raise ToolsLostError("the server died")
            return "well"

        return ask


async def fragile(times: int) -> tuple[Fragile, LiveBundle]:
    made = Fragile(times)
    bundle = ToolBundle(made.open)
    live = LiveBundle("fragile", bundle, await bundle_schemas("fragile", bundle))
    made.opened = 0
    return made, live


async def test_a_lost_bundle_is_opened_again_for_the_next_call():
    made, live = await fragile(1)
    async with EpisodeTools() as first:
        assert await said(live, "ask") == "Error: ToolsLostError: the server died"
    async with EpisodeTools() as second:
        assert await said(live, "ask") == "well"
    assert first.problem == "fragile is gone: the server died"
    assert second.problem is None
    assert made.opened == 2
    await live.close()


async def test_a_bundle_is_opened_again_only_so_often_without_an_answer():
    made, live = await fragile(99)
    answers = [await said(live, "ask") for _ in range(RESTARTS + 3)]
    assert made.opened == RESTARTS + 1
    assert f"fragile is gone: the server died; it was opened {RESTARTS} times again" in answers[-1]
    await live.close()


async def test_a_bundle_that_ends_by_itself_is_noticed(caplog):
    gone = asyncio.Event()

    @asynccontextmanager
    async def context():
        def ask() -> str:
            """Ask the server."""
            return "well"

        async with asyncio.TaskGroup() as tasks:
            crashing = tasks.create_task(crash())
            yield [ask]
            crashing.cancel()

    async def crash():
        await gone.wait()
        raise OSError("connection reset")

    TOOL = {"type": "function", "function": {"name": "ask", "description": "Ask.", "parameters": {}}}
    bundle = ToolBundle(context)
    live = LiveBundle("server", bundle, [TOOL])
    assert await said(live, "ask") == "well"
    gone.set()
    await asyncio.sleep(0.01)
    gone.clear()
    assert await said(live, "ask") == "well"
    await live.close()
    assert "server is gone: OSError: connection reset" in caplog.text


async def test_what_closing_raises_or_takes_too_long_is_logged_and_stops_nothing(caplog, monkeypatch):
    monkeypatch.setattr(bundles_module, "CLOSE_SECONDS", 0.05)

    @asynccontextmanager
    async def raises():
        yield []
        raise OSError("cannot close")

    @asynccontextmanager
    async def hangs():
        yield []
        await asyncio.sleep(9)

    with caplog.at_level(logging.WARNING):
        assert await bundle_schemas("raises", ToolBundle(raises)) == []
        assert await bundle_schemas("hangs", ToolBundle(hangs)) == []
    assert "raises: closing it failed: OSError: cannot close" in caplog.text
    assert "hangs did not close within 0.05 s" in caplog.text


async def test_a_bundle_that_lost_a_tool_says_which_it_has():
    shop = Shop("run")
    live = LiveBundle("shop", shop.bundle, [{"type": "function", "function": {"name": "pay"}}])
    assert 'shop offers no "pay" any more; it has: put, count' in await said(live, "pay")
    await live.close()
