"""Contract tests of backends: many conversations at once, each with its own answer, limit and seed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, ClassVar

from grpo_sdk.backend import Capability, ChatReply, TokenReply
from grpo_sdk.deadline import Deadline, Leavable
from grpo_sdk.messages import Message, ToolSchema, user
from grpo_sdk.testing.checks import require
from grpo_sdk.testing.contract import Within, timed
from grpo_sdk.testing.started_backend import StartedBackend, check_reply

WEATHER: ToolSchema = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city."}},
            "required": ["city"],
        },
    },
}


class TrafficContract(StartedBackend):
    """The half of ``BackendContract`` that asks more than one thing."""

    conversations: ClassVar[Sequence[Sequence[Message]]] = tuple(
        (user(text),)
        for text in (
            "What is the capital of France?",
            "Name a color.",
            "How much is 2 + 40?",
            "Who wrote the Odyssey, and in which language?",
        )
    )
    """Asked side by side; each must get its own answer."""
    limits_answers: ClassVar[bool] = True
    """An answer has at most ``max_tokens`` tokens; False for one that answers by a script."""
    answer_seconds: ClassVar[float] = 120.0
    """An answer that takes longer does not come."""

    async def _within(self, work: Awaitable[Any], when: str) -> Any:
        try:
            return await asyncio.wait_for(work, self.answer_seconds)
        except TimeoutError:
            raise AssertionError(f"no answer within {self.answer_seconds:g} s {when}") from None

    async def _left(self, work: Awaitable[Any]) -> Any:
        """What ``work`` gives. If it will not end when it is cancelled, it is left, as the host does."""
        with Deadline(self.answer_seconds + 1.0):  # who waits for it gives up before
            return await Leavable(work)

    def _asked(self) -> list[tuple[str, Callable[[], Awaitable[Any]]]]:
        """Every way to ask for an answer that the backend announces."""
        backend, able = self.backend, self.backend.capabilities
        ways: list[tuple[str, Callable[[], Awaitable[Any]]]] = []

        async def streamed() -> Any:
            return [item async for item in backend.stream(self.conversation, self.greedy)][-1]

        if Capability.CHAT in able:
            ways.append(("chat", lambda: backend.chat(self.conversation, self.greedy)))
        if Capability.STREAMING in able:
            ways.append(("stream", streamed))
        if Capability.TOKEN_IDS in able:
            prompt = self.prompt()
            ways.append(("generate", lambda: backend.generate(prompt, self.greedy)))
        return ways

    def _check(self, reply: Any) -> None:
        if isinstance(reply, TokenReply):
            self.check_tokens(reply, self.greedy)
        else:
            check_reply(reply)

    def test_many_asked_at_once_all_get_answers(self) -> None:
        """Fix: the host asks from many coroutines at once: queue or batch, never refuse."""
        for _, ask in self._asked():

            async def at_once(ask: Callable[[], Awaitable[Any]] = ask) -> list[Any]:
                return list(await asyncio.gather(*(ask() for _ in range(8))))

            for reply in self.run(self._within(at_once(), "when 8 ask at once")):
                self._check(reply)

    def test_conversations_side_by_side_are_not_mixed_up(self) -> None:
        """Fix: keep what belongs to a call in its local variables, never in attributes of the backend."""
        backend, able = self.backend, self.backend.capabilities
        if Capability.CHAT in able:

            async def chat(conversation: Sequence[Message]) -> object:
                return (await backend.chat(conversation, self.greedy)).message

            self._require_own_answers("chat", chat)
        if Capability.TOKEN_IDS in able:

            async def generate(conversation: Sequence[Message]) -> object:
                ids = backend.tokenizer.encode(conversation[-1]["content"])
                return (await backend.generate(ids, self.greedy)).ids

            self._require_own_answers("generate", generate)

    def _require_own_answers(self, way: str, ask: Callable[[Sequence[Message]], Awaitable[object]]) -> None:
        async def each() -> list[object]:
            return [await ask(conversation) for conversation in self.conversations]

        async def together() -> list[object]:
            return list(await asyncio.gather(*map(ask, self.conversations)))

        alone = self.run(each())
        for number, answer in enumerate(self.run(together())):
            # Not merely another answer: batches of another size may round otherwise.
            others = [n for n, other in enumerate(alone) if other == answer and other != alone[number]]
            require(
                not others,
                f"{way} answered {self.conversations[number][-1]['content']!r} as it answers "
                f"{self.conversations[others[0]][-1]['content']!r} alone: conversations are mixed up"
                if others
                else "",
            )

    def test_an_answer_has_at_most_max_tokens(self) -> None:
        """Fix: pass ``sampling.max_tokens`` on, and end with ``finish_reason`` "length". For a backend that
        answers by a script, set ``limits_answers = False``."""
        able = self.backend.capabilities
        short = replace(self.greedy, max_tokens=2)
        if Capability.TOKEN_IDS in able:
            self.check_tokens(self.run(self.backend.generate(self.prompt(), short)), short)
        if Capability.CHAT in able and self.limits_answers:
            reply: ChatReply = self.run(self.backend.chat(self.conversation, short))
            words = len(reply.message["content"].split())
            require(
                max(reply.completion_tokens, words) <= 2,
                f"max_tokens is 2, and the answer has {reply.completion_tokens or 'at least'} "
                f"{'' if reply.completion_tokens else words} tokens: {reply.message['content']!r:.100}",
            )

    def test_a_seed_repeats_a_sample(self) -> None:
        """Fix: pass ``sampling.seed`` to the engine, request by request; or do not announce SEED."""
        backend = self.needs(Capability.SEED)
        able = backend.capabilities

        async def sample(seed: int) -> object:
            sampling = replace(self.sampled, seed=seed)
            if Capability.TOKEN_IDS in able:
                return (await backend.generate(self.prompt(), sampling)).ids
            return (await backend.chat(self.conversation, sampling)).message

        async def several() -> tuple[list[object], list[object], list[object]]:
            first = [await sample(seed) for seed in range(4)]
            second = [await sample(seed) for seed in range(4)]
            return first, second, list(await asyncio.gather(*map(sample, range(4))))

        first, second, beside = self.run(several())
        different = next((pair for pair in zip(first, second, strict=True) if pair[0] != pair[1]), None)
        require(different is None, f"two samples of one seed differ: {different}")
        # One may round otherwise in a batch of another size; a generator that all share changes most.
        repeated = sum(one == other for one, other in zip(first, beside, strict=True))
        require(
            repeated >= 2,
            f"of 4 seeds, {repeated} repeat their sample when all are asked for at once: they seed a "
            "generator that the requests share",
        )

    def test_a_cancelled_call_leaves_the_backend_usable(self) -> None:
        """Fix: on ``CancelledError`` abort the request in the engine, release locks in ``finally``, and let
        the others go on."""
        for way, ask in self._asked():
            for turns in (1, 2, 8):

                async def cancel(
                    ask: Callable[[], Awaitable[Any]] = ask, turns: int = turns, way: str = way
                ) -> list[Any]:
                    tasks = [asyncio.ensure_future(self._left(ask())) for _ in range(4)]
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    for task in tasks[:2]:
                        task.cancel()
                    ended = await self._within(
                        asyncio.gather(*tasks, return_exceptions=True), f"to {way} beside cancelled calls"
                    )
                    failed = next((one for one in ended[2:] if isinstance(one, BaseException)), None)
                    require(failed is None, f"a call of {way} failed as others were cancelled: {failed!r}")
                    return [*ended[2:], await self._within(ask(), f"to {way} after cancelled calls")]

                for reply in self.run(cancel()):
                    self._check(reply)

    def test_what_is_asked_is_not_changed(self) -> None:
        """Fix: work on copies of ``messages``, ``tools`` and ``prompt``: the agent goes on with its own."""
        backend, able = self.backend, self.backend.capabilities
        messages, tools = deepcopy(list(self.conversation)), deepcopy([WEATHER])
        given: dict[str, Any] = {"messages": messages, "tools": tools}
        before = json.dumps(given, sort_keys=True)

        def require_same(method: str) -> None:
            for name, value in json.loads(before).items():
                require(given[name] == value, f"{method} changed {name}: {given[name]!r:.300}")

        if Capability.CHAT in able:
            offered = tools if Capability.TOOLS in able else []
            self.run(backend.chat(messages, self.greedy, offered))
            require_same("chat()")
        if Capability.STREAMING in able:

            async def stream() -> None:
                async for _ in backend.stream(messages, self.greedy):
                    pass

            self.run(stream())
            require_same("stream()")
        if Capability.TOKEN_IDS in able:
            prompt = self.prompt()
            same = list(prompt)
            self.run(backend.generate(prompt, self.greedy))
            require(prompt == same, f"generate() changed the prompt from {same[:20]} to {prompt[:20]}")

    def test_the_event_loop_is_not_blocked(self) -> None:
        """Fix: compute in a thread (``grpo_sdk.blocking.call_blocking``), and await the client's answer."""
        for way, ask in self._asked():

            async def play(steps: list[float], ask: Callable[[], Awaitable[Any]] = ask) -> None:
                await timed(ask(), steps)

            self.require_unblocked(play, f"{way}()")

    def test_a_time_limit_ends_it(self) -> None:
        """Fix: let ``asyncio.CancelledError`` pass: ``except Exception`` in place of ``except:``."""
        for way, ask in self._asked():

            async def answer(within: Within, ask: Callable[[], Awaitable[Any]] = ask) -> None:
                await within(ask())

            self.require_cancellable(answer, f"{way}()")
