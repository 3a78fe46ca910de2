"""Contract tests of backends: inherit, say how to make yours, run pytest.

    from grpo_sdk.testing import BackendContract

    class TestMine(BackendContract):
        def make(self):
            return MyBackend(ModelSpec("tiny", path=tiny_model))

What a backend announces is tested; what it does not announce must be refused. One instance is
started for all tests of a class.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

from grpo_sdk.backend import Capability, ChatReply, Sampling
from grpo_sdk.errors import CapabilityError, ContextOverflowError
from grpo_sdk.testing.checks import require, skip
from grpo_sdk.testing.started_backend import check_reply
from grpo_sdk.testing.traffic_contract import WEATHER, TrafficContract

BOX = {
    "type": "object",
    "properties": {"size": {"enum": [1, 2, 3]}, "open": {"type": "boolean"}},
    "required": ["size", "open"],
    "additionalProperties": False,
}


def _tag(format: dict[str, Any]) -> str:
    return json.dumps({"type": "structural_tag", "format": format})


def _is_box(text: str) -> bool:
    try:
        box = json.loads(text)
    except ValueError:
        return False
    return isinstance(box, dict) and box.keys() == {"size", "open"}


class BackendContract(TrafficContract):
    """What the host relies on in every ``Backend``."""

    def test_capabilities_go_together(self) -> None:
        """Fix: LOGPROBS and WEIGHT_SYNC need TOKEN_IDS, ADAPTER_SYNC needs WEIGHT_SYNC; TOOLS and
        STREAMING need CHAT."""
        able = self.backend.capabilities
        require(isinstance(able, frozenset), "capabilities must be a frozenset, set on the class")
        require(able, "the backend announces nothing that it can do")
        for what, needed in (
            (Capability.LOGPROBS, Capability.TOKEN_IDS),
            (Capability.WEIGHT_SYNC, Capability.TOKEN_IDS),
            (Capability.ADAPTER_SYNC, Capability.WEIGHT_SYNC),
            (Capability.TOOLS, Capability.CHAT),
            (Capability.STREAMING, Capability.CHAT),
        ):
            require(what not in able or needed in able, f"{what} is announced without {needed}")

    def test_what_is_not_announced_is_refused(self) -> None:
        """Fix: leave the method out (the base class refuses), or announce the capability."""
        backend = self.backend

        async def first_of_stream() -> None:
            async for _ in backend.stream(self.conversation, self.greedy):
                return

        async def tokenizer() -> None:
            _ = backend.tokenizer

        attempts: dict[Capability, list[Callable[[], Coroutine[Any, Any, object]]]] = {
            Capability.TOKEN_IDS: [lambda: backend.generate([1, 2, 3], self.greedy), tokenizer],
            Capability.CHAT: [lambda: backend.chat(self.conversation, self.greedy)],
            Capability.STREAMING: [first_of_stream],
            Capability.WEIGHT_SYNC: [lambda: backend.update_weights([], version=1)],
            Capability.ADAPTER_SYNC: [lambda: backend.update_adapter(Path("adapter"), version=1)],
            Capability.ADAPTERS: [lambda: backend.load_adapter(Path("adapter"))],
        }
        for capability, calls in attempts.items():
            if capability in backend.capabilities:
                continue
            for call in calls:
                try:
                    self.run(call())
                except CapabilityError:
                    continue
                raise AssertionError(
                    f"{capability} is not announced, but the method raised no CapabilityError"
                )

    def test_chat_answers_with_a_message(self) -> None:
        """Fix: return ``ChatReply(assistant(text, calls), finish_reason)``; content is never None."""
        reply = self.run(self.needs(Capability.CHAT).chat(self.conversation, self.greedy))
        check_reply(reply)

    def test_greedy_chat_repeats_itself(self) -> None:
        """Fix: pass ``temperature=0`` on, or set ``exact_greedy = False`` if nobody promises it."""
        if not self.exact_greedy:
            skip("the backend does not promise it")
        backend = self.needs(Capability.CHAT)
        first = self.run(backend.chat(self.conversation, self.greedy))
        second = self.run(backend.chat(self.conversation, self.greedy))
        require(first.message == second.message, "two greedy answers to one conversation differ")

    def test_tool_schemas_are_taken(self) -> None:
        """Fix: pass schemas on; return calls in the OpenAI form, arguments as a JSON text."""
        backend = self.needs(Capability.CHAT, Capability.TOOLS)
        check_reply(self.run(backend.chat(self.conversation, self.greedy, [WEATHER])))

    def test_streaming_ends_with_the_whole_reply(self) -> None:
        """Fix: yield text deltas, then one ``ChatReply`` whose content is their sum, and nothing after."""
        backend = self.needs(Capability.STREAMING)

        async def collect() -> list[str | ChatReply]:
            return [item async for item in backend.stream(self.conversation, self.greedy)]

        *deltas, last = self.run(collect())
        require(isinstance(last, ChatReply), f"the last item is a {type(last).__name__}, not a ChatReply")
        require(all(isinstance(delta, str) for delta in deltas), "an item before the last is no text")
        check_reply(last)  # type: ignore[arg-type]
        joined = "".join(map(str, deltas)).strip()
        require(joined == last.message["content"].strip(), "the deltas are not the reply")  # type: ignore[union-attr]

    def test_generate_returns_ids_and_their_logprobs(self) -> None:
        """Fix: return the sampled ids as they are, the stop token included, and one logprob each."""
        prompt = self.prompt()
        for sampling in (self.greedy, self.sampled, Sampling(max_tokens=1)):
            self.check_tokens(self.run(self.backend.generate(prompt, sampling)), sampling)

    def test_greedy_generation_repeats_itself(self) -> None:
        """Fix: ``temperature=0`` takes the most probable id each time."""
        prompt = self.prompt()
        first, second = (self.run(self.backend.generate(prompt, self.greedy)).ids for _ in range(2))
        require(first == second, f"two greedy samples differ: {first} and {second}")

    def test_generation_stops_at_a_stop_token(self) -> None:
        """Fix: stop after any of ``stop_token_ids`` and return that id as the last one."""
        prompt = self.prompt()
        first = self.run(self.backend.generate(prompt, self.greedy)).ids[0]
        sampling = Sampling(max_tokens=12, temperature=0.0, stop_token_ids=(first,))
        reply = self.run(self.backend.generate(prompt, sampling))
        require(reply.ids == [first], f"asked to stop at {first}, it sampled {reply.ids}")
        require(reply.finish_reason == "stop", f"finish_reason is {reply.finish_reason!r}")

    def test_a_grammar_is_kept_to_the_end(self) -> None:
        """Fix: let the engine sample nothing but what ``sampling.grammar`` allows, and then an end token."""
        backend = self.needs(Capability.TOKEN_IDS, Capability.STRUCTURED)
        box = {"type": "json_schema", "json_schema": BOX, "max_whitespace_cnt": 1}
        sampling = replace(self.sampled, max_tokens=64, grammar=_tag(box))
        reply = self.run(backend.generate(self.prompt(), sampling))
        self.check_tokens(reply, sampling)
        require(reply.finish_reason == "stop", f"a grammar that ends was left open: {reply.ids}")
        text = backend.tokenizer.decode(reply.ids, skip_special_tokens=True)
        require(_is_box(text), f"the grammar was not kept: {text!r}")

    def test_an_id_that_alone_is_allowed_has_the_logprob_zero(self) -> None:
        """Fix: mask the logits before the softmax, and take the log-probs after it."""
        backend = self.needs(Capability.TOKEN_IDS, Capability.STRUCTURED, Capability.LOGPROBS)
        alone = self.prompt()[-1]
        for sampling in (self.greedy, self.sampled):
            forced = replace(sampling, max_tokens=2, grammar=_tag({"type": "token", "token": alone}))
            reply = self.run(backend.generate(self.prompt(), forced))
            require(
                reply.ids[0] == alone, f"the grammar allows {alone} alone, and {reply.ids[0]} was sampled"
            )
            require(abs(reply.logprobs[0]) < 1e-4, f"its log-prob is {reply.logprobs[0]}, not 0")

    def test_a_grammar_that_cannot_be_enforced_is_refused_alone(self) -> None:
        """Fix: raise ``CapabilityError`` for this request, and go on with the others."""
        backend = self.needs(Capability.TOKEN_IDS, Capability.STRUCTURED)
        for grammar in ("no grammar", _tag({"type": "json_schema", "json_schema": {"$ref": "#/nowhere"}})):
            try:
                self.run(backend.generate(self.prompt(), replace(self.greedy, grammar=grammar)))
            except CapabilityError:
                continue
            raise AssertionError(f"the grammar {grammar} was taken")
        self.check_tokens(self.run(backend.generate(self.prompt(), self.greedy)), self.greedy)

    def test_a_forced_tool_is_called(self) -> None:
        """Fix: pass ``sampling.tool_choice`` on, in the provider's words."""
        backend = self.needs(Capability.CHAT, Capability.TOOLS, Capability.STRUCTURED)
        for choice in ("required", "weather"):
            forced = replace(self.greedy, max_tokens=64, tool_choice=choice)
            reply = self.run(backend.chat(self.conversation, forced, [WEATHER]))
            check_reply(reply)
            require(reply.message.get("tool_calls"), f"tool_choice {choice!r} gave no call: {reply.message}")

    def test_an_answer_keeps_to_its_json_schema(self) -> None:
        """Fix: pass ``sampling.json_schema`` on, in the provider's words."""
        backend = self.needs(Capability.CHAT, Capability.STRUCTURED)
        sampling = replace(self.greedy, max_tokens=64, json_schema=BOX)
        reply = self.run(backend.chat(self.conversation, sampling))
        text = reply.message["content"]
        require(_is_box(text), f"the schema was not kept: {text!r:.200}")

    def test_a_prompt_longer_than_the_context_is_refused(self) -> None:
        """Fix: raise ``ContextOverflowError`` before the engine does something of its own."""
        prompt = self.prompt()
        long = (prompt * (self.backend.model.context // len(prompt) + 1))[: self.backend.model.context]
        try:
            self.run(self.backend.generate(long, self.greedy))
        except ContextOverflowError:
            return
        raise AssertionError(f"a prompt of {len(long)} ids left no room, yet nothing was raised")

    def test_new_weights_are_taken(self) -> None:
        """Fix: load the tensors by the base model's names; the same weights give the same answer."""
        backend = self.needs(Capability.WEIGHT_SYNC)
        weights = self.weights()
        if weights is None:
            skip("weights() names none")
        prompt = self.prompt()
        before = self.run(backend.generate(prompt, self.greedy)).ids
        self.run(backend.update_weights(weights, version=1))
        after = self.run(backend.generate(prompt, self.greedy)).ids
        require(before == after, f"its own weights changed the answer: {before}, then {after}")

    def test_a_new_adapter_is_taken_and_named_by_what_it_samples(self) -> None:
        """Fix: serve the adapter of ``update_adapter``, and say its ``version`` in each ``TokenReply``."""
        backend = self.needs(Capability.ADAPTER_SYNC)
        path = self.adapter()
        if path is None:
            skip("adapter() names none")
        for version in (1, 2):
            self.run(backend.update_adapter(path, version=version))
            reply = self.run(backend.generate(self.prompt(), self.greedy))
            self.check_tokens(reply, self.greedy)
            require(reply.policy_version == version, f"version {version} says it is {reply.policy_version}")

    def test_an_adapter_is_served(self) -> None:
        """Fix: load the PEFT directory and use it for every later request."""
        backend = self.needs(Capability.ADAPTERS)
        path = self.adapter()
        if path is None:
            skip("adapter() names none")
        self.run(backend.load_adapter(path))
        if Capability.TOKEN_IDS in backend.capabilities:
            self.check_tokens(self.run(backend.generate(self.prompt(), self.greedy)), self.greedy)

    def test_close_may_be_called_early_and_twice(self) -> None:
        """Fix: ``start`` may have failed before: let ``close`` check what is open."""

        async def close() -> None:
            backend = self.make()
            await backend.close()
            await backend.close()

        self.run(close())
