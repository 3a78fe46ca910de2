"""What ``tool_choice`` and ``json_schema`` let a session's model say, in each format of calls."""

from __future__ import annotations

import json
import random

import pytest

from grpo_host.agents.rendering.call_syntax import call_syntax
from grpo_host.agents.rendering.constraints import make_grammar
from grpo_host.agents.rendering.native_tools import TOOL
from grpo_host.agents.rendering.template import TemplateRenderer
from grpo_host.agents.session import ChatSession, TokenSession
from grpo_sdk import Backend, Capability, ModelSpec, Sampling, TokenReply, assistant, tool_call, user
from grpo_sdk.errors import CapabilityError, ConfigError
from grpo_sdk.grammar import Grammars, unpacked
from grpo_sdk.testing import ScriptedBackend
from grpo_sdk.tools import MALFORMED_CALL, as_tool, tool_schema

SCHEMA = {
    "type": "object",
    "properties": {"mood": {"enum": ["good", "bad"]}, "note": {"type": "string", "maxLength": 4}},
    "required": ["mood", "note"],
}


def lookup(order: str) -> str:
    """Look up an order."""
    return order


def now() -> str:
    """The time."""
    return "now"


TOOLS = [tool_schema(as_tool(lookup)), tool_schema(as_tool(now))]
TOOLS[0]["function"]["parameters"]["properties"]["order"]["maxLength"] = 5
CALL = '<tool_call>{"name": "lookup", "arguments": {"order": "A12"}}</tool_call>'


class Wandering(Backend):
    """Samples any of the ids that are allowed, and ends an answer half of the times that it can."""

    capabilities = frozenset({Capability.TOKEN_IDS, Capability.STRUCTURED})

    def __init__(self, tokenizer, grammars=None, seed=0):
        super().__init__(ModelSpec("wandering", context=100_000))
        self._tokenizer = tokenizer
        self._grammars = grammars or Grammars(tokenizer, len(tokenizer))
        self._random = random.Random(seed)

    @property
    def tokenizer(self):
        return self._tokenizer

    async def generate(self, prompt, sampling):
        if sampling.grammar is None:
            text = [
                *self._tokenizer.encode(CALL + CALL, add_special_tokens=False),
                self.tokenizer.eos_token_id,
            ]
            return TokenReply(text, [0.0] * len(text), "stop")
        followed = self._grammars.follow(sampling.grammar, sampling.stop_token_ids)
        ids = []
        while len(ids) < sampling.max_tokens:
            bits = self._grammars.bits(1)
            followed.fill(bits, 0)
            allowed = unpacked(bits, len(self._tokenizer))[0].nonzero()[:, 0]
            ends = [id for id in sampling.stop_token_ids if id in allowed]
            if not ends or self._random.random() < 0.4:
                ends = [int(allowed[self._random.randrange(len(allowed))])]
            ids.append(ends[0])
            assert followed.take(ids[-1])
            if ids[-1] in sampling.stop_token_ids:
                return TokenReply(ids, [0.0] * len(ids), "stop")
        return TokenReply(ids, [0.0] * len(ids), "length")


async def answer(session, **said):
    said.setdefault("max_tokens", 120)
    return await session.respond([user("Hi")], Sampling(**said))


@pytest.fixture(scope="module", params=["text", "hermes", "mistral", "mistral, newer", "llama 3.1"])
def wandering(request, smollm_tokenizer, tokenizer_of):
    """A function that opens a session on a model that writes calls in one format."""
    if request.param == "text":
        tokenizer = smollm_tokenizer
    else:
        tokenizer = tokenizer_of("qwen 2.5" if request.param == "hermes" else request.param)
    renderer, grammars = TemplateRenderer(tokenizer), Grammars(tokenizer, len(tokenizer))

    def opened(tools=TOOLS, seed=0):
        return TokenSession(Wandering(tokenizer, grammars, seed), renderer, [], tools)

    opened.format, opened.grammars = request.param, grammars
    return opened


def functions(reply):
    return [call["function"]["name"] for call in reply.message.get("tool_calls", [])]


@pytest.mark.model
async def test_required_gives_calls_of_offered_tools_and_nothing_else(wandering):
    for seed in range(3):
        reply = await answer(wandering(seed=seed), tool_choice="required")
        if reply.finish_reason == "length":
            continue
        assert reply.message["content"] == ""
        assert functions(reply)
        assert set(functions(reply)) <= {"lookup", "now"}
        assert reply.finish_reason == "tool_calls"


@pytest.mark.model
async def test_a_named_tool_is_called_once_with_arguments_of_its_schema(wandering):
    for seed in range(3):
        reply = await answer(wandering(seed=seed), tool_choice="lookup")
        [call] = reply.message["tool_calls"]
        assert call["function"]["name"] == "lookup"
        assert json.loads(call["function"]["arguments"]).keys() == {"order"}


@pytest.mark.model
async def test_one_call_at_most_where_parallel_calls_are_off(wandering):
    for seed in range(3):
        once = await answer(wandering(seed=seed), tool_choice="required", parallel_tool_calls=False)
        assert len(functions(once)) == 1
        assert (
            len(functions(await answer(wandering(seed=seed), parallel_tool_calls=False, max_tokens=30))) <= 1
        )


@pytest.mark.model
def test_several_calls_may_be_required_where_the_format_has_a_way_to_write_them(wandering):
    session = wandering([TOOL])
    renderer, tokenizer = session._renderer, session._backend.tokenizer
    syntax = call_syntax(renderer, tokenizer)
    assert (syntax.further is None) is (wandering.format == "llama 3.1")
    if syntax.further is not None:
        grammar = make_grammar(Sampling(tool_choice="required"), [TOOL], renderer, tokenizer)
        ids = tokenizer.encode(syntax.example(2), add_special_tokens=False)
        wandering.grammars.allowed([*ids, renderer.stop_ids[0]], grammar, renderer.stop_ids)


@pytest.mark.model
async def test_a_json_schema_shapes_the_text(wandering):
    for tools, choice in (((), "auto"), (TOOLS, "none")):
        for seed in range(2):
            reply = await answer(wandering(tools, seed), json_schema=SCHEMA, tool_choice=choice)
            said = json.loads(reply.message["content"])
            assert said.keys() == {"mood", "note"}
            assert not functions(reply)


@pytest.mark.model
async def test_a_model_with_tools_answers_by_a_call_or_by_json(wandering):
    for seed in range(4):
        reply = await answer(wandering(seed=seed), json_schema=SCHEMA)
        if not functions(reply):
            assert json.loads(reply.message["content"]).keys() == {"mood", "note"}
        assert reply.finish_reason == "length" or MALFORMED_CALL not in functions(reply)


@pytest.mark.model
async def test_an_empty_schema_is_any_object(wandering):
    for seed in range(2):
        reply = await answer(wandering((), seed), json_schema={}, max_tokens=60)
        cut = reply.finish_reason == "length"
        assert reply.message["content"].startswith("{")
        assert cut or isinstance(json.loads(reply.message["content"]), dict)


@pytest.mark.model
async def test_none_gives_a_text_without_calls(wandering):
    for seed in range(2):
        reply = await answer(wandering(seed=seed), tool_choice="none", max_tokens=40)
        assert not functions(reply)
        if wandering.format != "llama 3.1":  # which has no mark of a call that could be left out
            assert "tool_call" not in reply.message["content"].lower()


@pytest.mark.model
async def test_an_answer_that_max_tokens_cuts_says_so(wandering):
    reply = await answer(wandering(()), json_schema=SCHEMA, max_tokens=3)
    assert (reply.finish_reason, reply.completion_tokens) == ("length", 3)


@pytest.mark.model
async def test_the_ledger_says_what_each_answer_was_constrained_to(wandering):
    session = wandering()
    await answer(session, tool_choice="lookup")
    await answer(session, max_tokens=5)
    await answer(session, tool_choice="none", max_tokens=5)
    found = []
    for sequence in session.ledger().sequences:
        for constraint in sequence.constraints:
            ids = sequence.ids[constraint.start : constraint.end]
            assert all(sequence.mask[constraint.start : constraint.end])
            wandering.grammars.allowed(ids, constraint.grammar, constraint.stop_ids)
            found.append(json.loads(constraint.grammar)["format"]["type"])
    assert found == (["sequence"] if wandering.format == "llama 3.1" else ["sequence", "any_text"])


@pytest.mark.model
async def test_arguments_that_are_no_json_are_refused_with_what_the_model_writes(tokenizer_of):
    tokenizer = tokenizer_of("glm 4")
    session = TokenSession(Wandering(tokenizer), TemplateRenderer(tokenizer), [], TOOLS)
    with pytest.raises(
        CapabilityError, match=r"cannot be constrained .*arg_key.*set model\.tool_format: text"
    ):
        await answer(session, tool_choice="required")
    assert session.messages == [user("Hi")]


@pytest.mark.model
async def test_tools_without_json_arguments_can_still_be_forbidden(tokenizer_of):
    tokenizer = tokenizer_of("glm 4")
    session = TokenSession(Wandering(tokenizer), TemplateRenderer(tokenizer), [], TOOLS)
    assert not functions(await answer(session, tool_choice="none"))


async def test_a_call_of_a_session_that_cannot_constrain_is_text_where_none_is_allowed(fakes):
    tokenizer = fakes.PieceTokenizer()
    session = TokenSession(fakes.TokenBackend(tokenizer, CALL), TemplateRenderer(tokenizer), [], TOOLS)
    reply = await answer(session, tool_choice="none")
    assert (reply.message["content"], functions(reply)) == (CALL, [])


async def test_the_calls_behind_the_first_are_left_out_where_parallel_calls_are_off(fakes):
    tokenizer = fakes.PieceTokenizer()
    backend = fakes.TokenBackend(tokenizer, CALL + CALL)
    session = TokenSession(backend, TemplateRenderer(tokenizer), [], TOOLS)
    assert functions(await answer(session, parallel_tool_calls=False)) == ["lookup"]
    assert session.ledger().sequences[0].constraints == []


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"tool_choice": "required"}, 'tool_choice "required"'),
        ({"tool_choice": "lookup"}, 'tool_choice "lookup"'),
        ({"json_schema": SCHEMA}, "json_schema"),
        ({"grammar": "{}"}, "a grammar"),
    ],
)
async def test_a_backend_that_cannot_constrain_refuses(fakes, said, named):
    tokenizer = fakes.PieceTokenizer()
    backend = fakes.TokenBackend(tokenizer, "Hello")
    for session in (
        TokenSession(backend, TemplateRenderer(tokenizer), [], TOOLS),
        ChatSession(ScriptedBackend(), [], TOOLS),
    ):
        with pytest.raises(CapabilityError, match=f"{named} needs a backend with the capability structured"):
            await answer(session, **said)


async def test_a_schema_that_cannot_be_enforced_is_refused_before_the_model_is_asked(fakes):
    unique = {"type": "array", "uniqueItems": True}
    tokenizer = fakes.PieceTokenizer()
    backend = fakes.TokenBackend(tokenizer, "[]")
    backend.capabilities = backend.capabilities | {Capability.STRUCTURED}
    with pytest.raises(CapabilityError, match="uniqueItems cannot be enforced"):
        await answer(TokenSession(backend, TemplateRenderer(tokenizer), [], ()), json_schema=unique)
    assert backend.calls == []
    chatting = ChatSession(ScriptedBackend(replies=["[]"], structured=True), [], ())
    assert (await answer(chatting, json_schema=unique)).message[
        "content"
    ] == "[]"  # a provider sees to it itself


async def test_a_tool_that_is_not_offered_cannot_be_chosen():
    session = ChatSession(ScriptedBackend(structured=True), [], TOOLS)
    with pytest.raises(
        ConfigError, match=r'names the tool "lokup", which is not offered\. Did you mean "lookup"'
    ):
        await answer(session, tool_choice="lokup")


async def test_a_call_cannot_be_required_where_no_tool_is_offered():
    with pytest.raises(ConfigError, match='tool_choice is "required", and no tool is offered'):
        await answer(ChatSession(ScriptedBackend(structured=True), [], ()), tool_choice="required")


async def test_a_chat_backend_that_cannot_forbid_calls_is_shown_no_tools():
    shown = []

    def script(_, tools):
        shown.append(len(tools))
        return assistant("", [tool_call("lookup", "{}", "")]) if tools else "Hello"

    backend = ScriptedBackend(script=script)
    assert (await answer(ChatSession(backend, [], TOOLS), tool_choice="none")).message["content"] == "Hello"
    with pytest.raises(ValueError, match="tool_choice is 'none'"):  # it was asked, and calls one all the same
        await answer(
            ChatSession(ScriptedBackend(script=script, structured=True), [], TOOLS), tool_choice="none"
        )
    assert shown == [0, 2]


def test_nothing_is_constrained_by_default(fakes):
    tokenizer = fakes.PieceTokenizer()
    renderer = TemplateRenderer(tokenizer)
    for sampling in (Sampling(), Sampling(temperature=0.0)):
        assert make_grammar(sampling, TOOLS, renderer, tokenizer) is None
    assert make_grammar(Sampling(), (), renderer, tokenizer) is None


def test_none_leaves_out_the_mark_of_a_call_where_no_tool_is_offered_too(fakes):
    # A model that is used to tools calls them by habit: a person would be shown nothing.
    tokenizer = fakes.PieceTokenizer()
    found = make_grammar(Sampling(tool_choice="none"), (), TemplateRenderer(tokenizer), tokenizer)
    assert json.loads(found)["format"] == {"type": "any_text", "excludes": ["<tool_call>"]}
