"""The started backend that contract tests share, and checks of what it answers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from grpo_sdk.backend import Backend, Capability, ChatReply, ModelSpec, Sampling, TokenReply
from grpo_sdk.messages import Message, user
from grpo_sdk.testing.checks import given, require, skip
from grpo_sdk.testing.contract import Contract, run

if TYPE_CHECKING:
    from grpo_sdk.backend import NamedWeights


class StartedBackend(Contract):
    """One backend for all tests of a class, started when the first test asks for it.

    So a class-scoped fixture that sets what ``make`` reads (a path) runs before.
    """

    conversation: ClassVar[Sequence[Message]] = (user("What is the capital of France?"),)
    greedy: ClassVar[Sampling] = Sampling(max_tokens=12, temperature=0.0)
    sampled: ClassVar[Sampling] = Sampling(max_tokens=12, temperature=1.0, seed=7)
    exact_greedy: ClassVar[bool] = True
    """Greedy answers repeat; False for a provider that does not promise it."""

    _started: ClassVar[Backend | None] = None

    def make(self) -> Backend:
        """Make a new instance of the backend under test, not started."""
        raise NotImplementedError(f"{type(self).__name__} needs def make(self) returning the backend")

    def weights(self) -> NamedWeights | None:
        """Weights that ``update_weights`` is to take, e.g. the model's own; None skips the test."""
        return None

    def adapter(self) -> Path | None:
        """A PEFT adapter directory that ``load_adapter`` is to serve; None skips the test."""
        return None

    @classmethod
    def teardown_class(cls) -> None:
        """Close the backend (pytest calls this)."""
        started, cls._started = cls._started, None
        if started is not None:
            run(started.close())

    @property
    def backend(self) -> Backend:
        """The started backend."""
        cls = type(self)
        if cls._started is None:
            made = self.make()
            forgot = not isinstance(getattr(made, "model", None), ModelSpec)
            require(not forgot, "its __init__ does not call super().__init__(model)")
            self.run(given(made.start(), "start", object))
            cls._started = made
        return cls._started

    def needs(self, *capabilities: Capability) -> Backend:
        """The started backend; skips the test if it does not announce ``capabilities``."""
        missing = set(capabilities) - self.backend.capabilities
        if missing:
            skip(f"the backend has no {', '.join(sorted(missing))}")
        return self.backend

    def prompt(self) -> list[int]:
        """The conversation as token ids."""
        tokenizer = self.needs(Capability.TOKEN_IDS).tokenizer
        return tokenizer.encode("\n".join(message["content"] for message in self.conversation))

    def check_tokens(self, reply: TokenReply, sampling: Sampling) -> None:
        """Fail unless ``reply`` is what ``generate`` promises."""
        is_reply = isinstance(reply, TokenReply)
        require(is_reply, f"generate() must return a TokenReply, not {type(reply).__name__}")
        require(reply.ids, "no id was sampled; sample at least the end token")
        require(
            all(type(i) is int and i >= 0 for i in reply.ids), f"ids are no plain ints: {reply.ids!r:.200}"
        )
        require(len(reply.ids) <= sampling.max_tokens, f"{len(reply.ids)} ids, {sampling.max_tokens} allowed")
        require(reply.finish_reason in ("stop", "length"), f"finish_reason is {reply.finish_reason!r}")
        if Capability.LOGPROBS not in self.backend.capabilities:
            return
        require(
            len(reply.logprobs) == len(reply.ids),
            f"{len(reply.logprobs)} logprobs for {len(reply.ids)} ids: one each, the end token's included",
        )
        require(
            all(math.isfinite(value) and value <= 1e-4 for value in reply.logprobs),
            f"these are no log-probabilities: {reply.logprobs!r:.200}",
        )


def check_reply(reply: ChatReply) -> None:
    """Fail unless ``reply`` is what ``chat`` promises."""
    require(isinstance(reply, ChatReply), f"chat() must return a ChatReply, not {type(reply).__name__}")
    message = reply.message
    require(message["role"] == "assistant", f"the reply's role is {message['role']!r}")
    require(isinstance(message["content"], str), "the reply's content is no string; use '' for nothing")
    require(
        reply.finish_reason in ("stop", "length", "tool_calls"), f"finish_reason is {reply.finish_reason!r}"
    )
    for call in message.get("tool_calls", []):
        require(call["id"] and call["type"] == "function", f"a call without id or type: {call!r:.200}")
        arguments = call["function"]["arguments"]
        require(isinstance(arguments, str), f"arguments are no JSON text: {arguments!r:.200}")
        require(isinstance(json.loads(arguments), dict), f"arguments are no JSON object: {arguments:.200}")
