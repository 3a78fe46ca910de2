"""Contract tests of tools: inherit, say how to make yours and how it is called, run pytest.

from grpo_sdk.testing import ToolContract

class TestDice(ToolContract):
    arguments = {"sides": 6}
    invalid_arguments = ({"sides": "six"},)

    def make(self):
        return dice_tool()

``make`` may also return what a factory of several tools does: a list, or a ``ToolBundle``, which each test
opens and closes as the host does. ``tool`` names the one that ``arguments`` are for.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar

from grpo_sdk.bundles import CLOSE_SECONDS, EpisodeTools, LiveBundle, ToolBundle, as_bundle, bundle_schemas
from grpo_sdk.deadline import Deadline
from grpo_sdk.messages import Message, ToolSchema, tool_call
from grpo_sdk.testing.checks import require, require_description, require_json, skip
from grpo_sdk.testing.contract import Contract, Within, timed
from grpo_sdk.toolbox import Toolbox
from grpo_sdk.tools import ToolLike, ToolLimits
from grpo_sdk.trajectory import ToolRun

LIMITS = ToolLimits()


class ToolContract(Contract):
    """What the host relies on in every tool."""

    arguments: ClassVar[Mapping[str, Any]] = {}
    """A call that works."""
    invalid_arguments: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Calls that do not; the model has to be told why."""
    tool: ClassVar[str] = ""
    """Of several tools, the one that is called; empty: the first."""

    def make(self) -> ToolLike | Sequence[ToolLike] | ToolBundle:
        """Make a new instance of the tool under test, or of several."""
        raise NotImplementedError(f"{type(self).__name__} needs def make(self) returning the tool")

    def call(self, *calls: Mapping[str, Any] | str) -> list[tuple[Message, ToolRun]]:
        """Make the tool and call it as the host does, all ``calls`` at once; a text is sent as it is."""
        texts = [call if isinstance(call, str) else json.dumps(call) for call in calls]

        async def answered() -> list[tuple[Message, ToolRun]]:
            async with self._opened() as toolbox, EpisodeTools():
                return await self._asked(toolbox, texts)

        return self.run(answered())

    def schemas(self) -> list[ToolSchema]:
        """What the model is shown of each tool."""

        async def shown() -> list[ToolSchema]:
            async with self._opened() as toolbox:
                return toolbox.schemas

        return self.run(shown())

    def schema(self) -> dict[str, Any]:
        """The function schema that the model is shown of the tool that is called."""
        found = {schema["function"]["name"]: schema["function"] for schema in self.schemas()}
        return found[self._called(list(found))]

    def _called(self, names: Sequence[str]) -> str:
        """The one of ``names`` that is called."""
        require(names, "make returns no tool")
        name = self.tool or names[0]
        require(name in names, f"tool names {name}; there are {', '.join(names)}")
        return name

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Toolbox]:
        """All tools; those of a bundle are opened by the first call, and closed."""
        made: Any = self.make()
        bundle = as_bundle(made, self.make)
        if bundle is None:
            yield Toolbox(made if isinstance(made, list | tuple) else [made], LIMITS)
            return
        live = LiveBundle("the bundle", bundle, await bundle_schemas("the bundle", bundle))
        try:
            yield Toolbox(live.tools, LIMITS)
        finally:
            await live.close()

    async def _asked(self, toolbox: Toolbox, texts: Sequence[str]) -> list[tuple[Message, ToolRun]]:
        name = self._called(toolbox.names)
        return await toolbox.run([tool_call(name, text, f"call_{n}") for n, text in enumerate(texts)])

    def test_it_has_a_name_that_every_provider_accepts(self) -> None:
        """Fix: letters, digits, ``_`` and ``-``, at most 64: rename the function or the tool."""
        for schema in self.schemas():
            name = schema["function"]["name"]
            require(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name), f"{name!r} is no name for a tool")

    def test_the_model_is_told_what_it_does(self) -> None:
        """Fix: write a docstring: it is all that the model knows of the tool."""
        for schema in self.schemas():
            require_description(schema["function"])

    def test_every_argument_is_described(self) -> None:
        """Fix: annotate every parameter and describe it under ``Args:`` in the docstring."""
        for schema in self.schemas():
            function = schema["function"]
            require_json(function, "the schema")
            for name, value in function.get("parameters", {}).get("properties", {}).items():
                typed = {"type", "anyOf", "allOf", "oneOf", "enum", "$ref"} & set(value)
                require(typed, f'the argument "{name}" has no type: annotate the parameter')
                require(value.get("description"), f'the argument "{name}" has no description under "Args:"')

    def test_a_valid_call_works(self) -> None:
        """Fix: set ``arguments`` to a call that works, and see what it answers here."""
        [(message, run)] = self.call(self.arguments)
        require(run.error is None, f"the call with {dict(self.arguments)} failed: {run.error}")
        require(message["content"].strip(), "the answer is empty: say what happened, a model cannot guess")
        require(not run.truncated, f"the answer is longer than {LIMITS.output_chars} characters: shorten it")

    def test_many_calls_at_once_work(self) -> None:
        """Fix: episodes run side by side: keep no state that two calls could mix up."""
        for _, run in self.call(*[self.arguments] * 16):
            require(run.error is None, f"one of 16 calls at once failed: {run.error}")

    def test_the_event_loop_is_not_blocked(self) -> None:
        """Fix: make it a plain function, which the host calls in a thread, or ``await`` what takes time."""

        async def play(steps: list[float]) -> None:
            async with self._opened() as toolbox, EpisodeTools():
                await timed(self._asked(toolbox, [json.dumps(self.arguments)]), steps)

        self.require_unblocked(play, "a call")

    def test_a_time_limit_ends_it(self) -> None:
        """Fix: let ``asyncio.CancelledError`` pass: ``except Exception`` in place of ``except:``."""

        async def call(within: Within) -> None:
            async with self._opened() as toolbox, EpisodeTools():
                tool = toolbox.get(self._called(toolbox.names))
                if tool is None:
                    return
                if tool.ready is not None:
                    await tool.ready()
                await within(tool.run(dict(self.arguments)))

        self.require_cancellable(call, "a call")

    def test_invalid_calls_are_answered_with_the_reason(self) -> None:
        """Fix: raise an exception whose text tells the model what to do differently.

        ``ToolCallError`` of ``grpo_sdk.tools`` is shown as it is; others with their class.
        """
        if not self.invalid_arguments:
            skip("invalid_arguments names no call")
        for arguments, (message, run) in zip(
            self.invalid_arguments, self.call(*self.invalid_arguments), strict=True
        ):
            require(run.error, f"the call with {dict(arguments)} is no error: {message['content']!r:.200}")
            require(
                len(message["content"]) > len("Error: ") + 8 and "Traceback" not in message["content"],
                f"the error does not explain itself: {message['content']!r:.200}",
            )

    def test_text_that_is_no_json_is_answered(self) -> None:
        """Fix: the host does this itself; a failure here is a bug in grpo_sdk."""
        [(message, run)] = self.call("{not json")
        require(run.error and message["role"] == "tool", "a malformed call got no error message")

    def test_two_episodes_at_once_have_their_own(self) -> None:
        """Fix: make what an episode keeps, and its tools, within the bundle's ``open``."""
        if getattr(as_bundle(self.make(), self.make), "per", "") != "episode":
            skip("make returns no bundle that is opened for each episode")

        async def episode(toolbox: Toolbox, both: asyncio.Barrier) -> tuple[Message, ToolRun]:
            async with EpisodeTools():
                [answer] = await self._asked(toolbox, [json.dumps(self.arguments)])
                await both.wait()  # each is open while the other is
                return answer

        async def played() -> list[tuple[Message, ToolRun]]:
            async with self._opened() as toolbox:
                both = asyncio.Barrier(2)
                return await asyncio.gather(*(episode(toolbox, both) for _ in range(2)))

        for message, run in self.run(played()):
            require(run.error is None, f"a call in one of two episodes failed: {message['content']}")

    def test_closing_works(self) -> None:
        """Fix: what follows the ``yield`` of an opening must not raise, nor take more than 10 s."""
        bundle = as_bundle(self.make(), self.make)
        if bundle is None:
            skip("make returns nothing that is opened")

        async def closed() -> None:
            opening = bundle.open()
            if isinstance(opening, AbstractAsyncContextManager):
                await opening.__aenter__()
                with Deadline(CLOSE_SECONDS):
                    await opening.__aexit__(None, None, None)

        try:
            self.run(closed())
        except Exception as problem:
            require(False, f"closing failed: {type(problem).__name__}: {problem}")
