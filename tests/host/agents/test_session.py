from __future__ import annotations

import asyncio
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.host.agents.lookup import CALL, TOOLS

from grpo_host.agents.rendering.template import TemplateRenderer
from grpo_host.agents.session import ChatSession, TokenSession, open_session
from grpo_sdk import (
    Capability,
    ContextOverflowError,
    Sampling,
    TokenReply,
    assistant,
    system,
    tool_call,
    tool_result,
    user,
)
from grpo_sdk.errors import CapabilityError
from grpo_sdk.messages import image_part
from grpo_sdk.testing import ScriptedBackend
from grpo_sdk.tools import MALFORMED_CALL

BROKEN = '<tool_call>{"name": "lookup", "arguments": </tool_call>'


async def converse(session, *turns, max_tokens=10_000):
    """Let ``session`` answer each of ``turns``, which are lists of messages."""

    return [await session.respond(turn, Sampling(max_tokens=max_tokens)) for turn in turns]


def token_session(fakes, *replies, tools=(), tokenizer=None, context=100_000, messages=(), version=3):
    tokenizer = tokenizer or fakes.PieceTokenizer()
    backend = fakes.TokenBackend(tokenizer, *replies, context=context)
    return backend, TokenSession(
        backend, TemplateRenderer(tokenizer), messages, tools, policy_version=version
    )


def assert_exact(backend, session):
    """Each prompt begins with all that was given and sampled before; the ledger says just that."""
    mask: list[int] = []
    logprobs: list[float] = []
    held: list[int] = []
    for call in backend.calls:
        assert call.prompt[: len(held)] == held
        context = len(call.prompt) - len(held)
        mask += [0] * context + [1] * len(call.reply.ids)
        logprobs += [0.0] * context + call.reply.logprobs
        held = [*call.prompt, *call.reply.ids]
    [sequence] = session.ledger().sequences
    assert sequence.ids == held
    assert sequence.mask == mask
    assert sequence.logprobs == logprobs
    assert sequence.versions == [3 if sampled else -1 for sampled in mask]


# What a policy may sample: words, calls good and bad, and ids in any order, also special ones.
SPOKEN = st.one_of(
    st.text(alphabet="helo rdt<>/_{}\n \"'", max_size=30),
    st.sampled_from([CALL, BROKEN, f"One moment. {CALL}", CALL + CALL, "<tool_call>", "", "  hello  "]),
    st.lists(st.integers(0, 11) | st.integers(132, 226), max_size=20),
)
HEARD = st.lists(
    st.one_of(
        st.builds(user, st.text(max_size=20)),
        st.builds(lambda text: tool_result(tool_call("lookup", "{}", "call_0"), text), st.text(max_size=20)),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=200)
@given(
    spoken=st.lists(SPOKEN, min_size=1, max_size=5),
    heard=st.lists(HEARD, min_size=5, max_size=5),
    max_tokens=st.integers(1, 40),
)
async def test_what_was_sampled_is_only_ever_extended(fakes, spoken, heard, max_tokens):
    backend, session = token_session(fakes, *spoken, tools=TOOLS, messages=[system("Be kind.")])
    await converse(session, *heard[: len(spoken)], max_tokens=max_tokens)
    assert_exact(backend, session)


@pytest.mark.model
@settings(max_examples=40)
@given(
    spoken=st.lists(
        st.text(max_size=30) | st.lists(st.integers(0, 49_151), max_size=20), min_size=1, max_size=4
    ),
    heard=st.lists(HEARD, min_size=4, max_size=4),
    max_tokens=st.integers(1, 30),
)
async def test_a_real_tokenizer_is_only_ever_extended(fakes, smollm_tokenizer, spoken, heard, max_tokens):
    backend, session = token_session(fakes, *spoken, tools=TOOLS, tokenizer=smollm_tokenizer)
    await converse(session, *heard[: len(spoken)], max_tokens=max_tokens)
    assert_exact(backend, session)


async def test_ids_that_spell_a_text_in_another_way_stay_as_sampled(fakes):
    tokenizer = fakes.PieceTokenizer()
    letters = [tokenizer.LETTERS + ord(letter) for letter in "hello"]
    assert tokenizer.encode("hello") != letters
    backend, session = token_session(fakes, [*letters, tokenizer.eos_token_id])
    replies = await converse(session, [user("Hi")], [user("And?")])
    assert replies[0].message == assistant("hello")
    assert letters == [i for i, m in zip(*ids_and_mask(session), strict=True) if m][: len(letters)]
    assert_exact(backend, session)


def ids_and_mask(session):
    [sequence] = session.ledger().sequences
    return sequence.ids, sequence.mask


async def test_a_completion_that_was_cut_is_ended_by_an_unsampled_token(fakes):
    backend, session = token_session(fakes, "hello hello hello")
    first, _ = await converse(session, [user("Hi")], [user("And?")], max_tokens=4)
    assert first.finish_reason == "length"
    end = len(backend.calls[0].prompt) + 4
    ids, mask = ids_and_mask(session)
    assert (ids[end], mask[end]) == (1, 0)
    assert_exact(backend, session)


async def test_tool_calls_are_parsed_and_malformed_ones_are_kept(fakes):
    _, session = token_session(fakes, f"Wait. {CALL}", BROKEN, "Done.", tools=TOOLS)
    good, bad, done = await converse(
        session, [user("Where is A12?")], [tool_result(tool_call("lookup", "{}", "c"), "x")], [user("?")]
    )
    assert (good.finish_reason, bad.finish_reason) == ("tool_calls", "stop")
    assert good.message["content"] == "Wait."
    assert good.message["tool_calls"][0]["function"] == {"name": "lookup", "arguments": '{"order": "A12"}'}
    assert bad.message["tool_calls"][0]["function"]["name"] == MALFORMED_CALL
    assert done.message == assistant("Done.")


async def test_without_tools_a_call_is_only_text(fakes):
    _, session = token_session(fakes, CALL)
    [reply] = await converse(session, [user("Hi")])
    assert reply.message == assistant(CALL)


async def test_the_renderers_stop_ids_and_the_room_left_are_asked_for(fakes):
    backend, session = token_session(fakes, "hello", context=60)
    await converse(session, [user("Hi")])
    prompt = len(backend.calls[0].prompt)
    assert backend.calls[0].sampling.stop_token_ids == (1,)
    assert backend.calls[0].sampling.max_tokens == 60 - prompt


async def test_a_prompt_longer_than_the_context_says_what_to_do(fakes):
    backend, session = token_session(fakes, "hello", context=20)
    with pytest.raises(
        ContextOverflowError,
        match=r"the conversation takes \d+ tokens, and the context has 20; raise model.context or shorten",
    ):
        await converse(session, [user("Hi there")])
    assert backend.calls == []
    [sequence] = session.ledger().sequences
    assert sequence.sampled == 0


def numbered(messages):
    """A template whose text depends on how many messages there are."""
    return "".join(f"<|im_start|>{i} {m['role']}\n{m['content']}<|im_end|>\n" for i, m in enumerate(messages))


async def test_a_template_that_rewrites_history_forks_and_keeps_what_was_sampled(fakes):
    tokenizer = fakes.PieceTokenizer(numbered)
    backend, session = token_session(fakes, "hello", "order", tokenizer=tokenizer)
    await converse(session, [user("Hi")], [user("And?")])
    ledger = session.ledger()
    assert ledger.forks == 1
    for call, sequence in zip(backend.calls, ledger.sequences, strict=True):
        assert sequence.ids == call.prompt + call.reply.ids
        assert sequence.mask == [0] * len(call.prompt) + [1] * len(call.reply.ids)
    said = [user("Hi"), assistant("hello"), user("And?")]
    assert tokenizer.decode(backend.calls[1].prompt) == numbered(said) + "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    "said", [assistant("Done."), assistant("", [tool_call("lookup", '{"order": "A"}', "c")])]
)
async def test_a_replayed_demonstration_has_the_ids_of_an_episode_that_said_the_same(fakes, said):
    tokenizer = fakes.PieceTokenizer()
    renderer = TemplateRenderer(tokenizer)
    heard = [[user("Hi")], [tool_result(tool_call("lookup", "{}", "c"), "42"), user("And?")]]
    backend, sampled = token_session(fakes, renderer.completion(said), tools=TOOLS)
    await converse(sampled, *heard)
    replayed = TokenSession(backend, renderer, [], TOOLS, policy_version=3)
    for new in heard:
        replayed.replay(new, said)
    [played], [shown] = sampled.ledger().sequences, replayed.ledger().sequences
    assert (shown.ids, shown.mask) == (played.ids, played.mask)
    assert set(shown.logprobs) == {0.0}
    roles = [message["role"] for message in replayed.messages]
    assert roles == [message["role"] for message in sampled.messages]


async def test_as_many_logprobs_as_ids_are_asked_of_a_backend(fakes):
    class Careless(fakes.TokenBackend):
        async def generate(self, prompt, sampling):
            return dataclasses.replace(await super().generate(prompt, sampling), logprobs=[-1.0])

    tokenizer = fakes.PieceTokenizer()
    session = TokenSession(Careless(tokenizer, "hello"), TemplateRenderer(tokenizer), [], ())
    with pytest.raises(ValueError, match="the backend gave 1 log-probs for 3 sampled ids"):
        await converse(session, [user("Hi")])


async def test_a_backend_that_samples_nothing_does_not_break_the_ledger(fakes):
    backend, session = token_session(fakes, [], "hello")
    await converse(session, [user("Hi")], [user("Hi?")])
    assert_exact(backend, session)


async def test_a_chat_backend_is_spoken_to_in_messages(fakes):
    backend = ScriptedBackend(replies=["One.", "Two."])
    session = open_session(backend, None, [system("Be kind.")], ())
    assert isinstance(session, ChatSession)
    replies = await converse(session, [user("Hi")], [user("And?")])
    assert [reply.message["content"] for reply in replies] == ["One.", "Two."]
    assert session.messages == [
        system("Be kind."), user("Hi"), assistant("One."), user("And?"), assistant("Two."),
    ]  # fmt: skip
    assert session.ledger() is None


def test_token_ids_are_spoken_wherever_the_backend_can(fakes):
    tokenizer = fakes.PieceTokenizer()
    backend = fakes.TokenBackend(tokenizer, "hello")
    assert isinstance(open_session(backend, TemplateRenderer(tokenizer), [], ()), TokenSession)
    assert isinstance(open_session(backend, None, [], ()), ChatSession)
    assert isinstance(open_session(ScriptedBackend(), TemplateRenderer(tokenizer), [], ()), ChatSession)


async def test_a_reply_says_what_it_took(fakes):
    backend, session = token_session(fakes, "hello")
    [reply] = await converse(session, [user("Hi")])
    sampled: TokenReply = backend.calls[0].reply
    assert (reply.prompt_tokens, reply.completion_tokens) == (len(backend.calls[0].prompt), len(sampled.ids))
    assert reply.finish_reason == "stop"


def heard(session, new, **sampling):
    """The pieces of the answer to ``new``, and the answer."""
    pieces = []
    reply = asyncio.run(session.respond(new, Sampling(max_tokens=10_000, **sampling), pieces.append))
    return pieces, reply


class PieceByPiece:
    """Lets a backend of the fakes give its ids in pieces of ``size``."""

    def __init__(self, backend, size):
        self._backend, self._size = backend, size

    def __getattr__(self, name):
        return getattr(self._backend, name)

    async def stream_ids(self, prompt, sampling):
        reply = await self._backend.generate(prompt, sampling)
        for start in range(0, len(reply.ids), self._size):
            yield reply.ids[start : start + self._size]
        yield reply


@settings(max_examples=200)
@given(said=SPOKEN, size=st.integers(1, 7), tools=st.booleans())
def test_what_is_streamed_is_the_answer_without_its_tool_calls(fakes, said, size, tools):
    tokenizer = fakes.PieceTokenizer()
    backend = PieceByPiece(fakes.TokenBackend(tokenizer, said), size)
    session = TokenSession(backend, TemplateRenderer(tokenizer), [], TOOLS if tools else ())
    pieces, reply = heard(session, [user("Hi")])
    assert "".join(pieces) == reply.message["content"]
    assert all(pieces)


@pytest.mark.model
@settings(max_examples=60)
@given(
    said=st.text(max_size=40)
    | st.lists(st.integers(0, 49_151), max_size=30)
    | st.sampled_from([CALL, f"Ü👋 {CALL}"]),
    size=st.integers(1, 4),
)
def test_a_real_tokenizers_text_is_streamed_whole(fakes, smollm_tokenizer, said, size):
    backend = PieceByPiece(fakes.TokenBackend(smollm_tokenizer, said), size)
    session = TokenSession(backend, TemplateRenderer(smollm_tokenizer), [], TOOLS)
    pieces, reply = heard(session, [user("Hi")])
    assert "".join(pieces) == reply.message["content"]


def test_text_is_streamed_as_it_comes_and_a_call_is_not(fakes):
    tokenizer = fakes.PieceTokenizer()
    backend = PieceByPiece(fakes.TokenBackend(tokenizer, f"Wait for it. {CALL} <tool"), 1)
    session = TokenSession(backend, TemplateRenderer(tokenizer), [], TOOLS)
    pieces, _ = heard(session, [user("Hi")])
    assert pieces[:4] == ["W", "a", "i", "t"]
    assert "".join(pieces) == "Wait for it.  <tool"


@pytest.mark.parametrize("streams", [True, False])
def test_a_chat_backend_streams_where_it_can(monkeypatch, streams):
    if not streams:
        can = ScriptedBackend.capabilities - {Capability.STREAMING}
        monkeypatch.setattr(ScriptedBackend, "capabilities", can)
    session = ChatSession(ScriptedBackend(replies=["One two."]), [], ())
    pieces, reply = heard(session, [user("Hi")])
    assert pieces == (["One", " two."] if streams else ["One two."])
    assert session.messages[-1] == reply.message == assistant("One two.")


async def test_an_answer_that_failed_can_be_asked_for_again(fakes):
    tokenizer = fakes.PieceTokenizer()
    backend, session = token_session(fakes, "hello", tokenizer=tokenizer)
    await converse(session, [user("Hi")])

    async def fail(prompt, sampling):
        raise RuntimeError("down")

    works, backend.generate = backend.generate, fail
    for new in ([user("And?")], []):
        with pytest.raises(RuntimeError, match="down"):
            await converse(session, new)
    backend.generate = works
    await converse(session, [user("Well?")])
    assert_exact(backend, session)
    said = [user("Hi"), assistant("hello"), user("And?"), user("Well?")]
    assert tokenizer.decode(backend.calls[1].prompt) == fakes.chatml(said) + "<|im_start|>assistant\n"
    assert [message["content"] for message in session.messages] == ["Hi", "hello", "And?", "Well?", "hello"]


async def test_a_failed_answer_after_a_fork_forks_once(fakes):
    tokenizer = fakes.PieceTokenizer(numbered)
    backend, session = token_session(fakes, "hello", tokenizer=tokenizer)
    await converse(session, [user("Hi")])

    async def fail(prompt, sampling):
        raise RuntimeError("down")

    works, backend.generate = backend.generate, fail
    with pytest.raises(RuntimeError, match="down"):
        await converse(session, [user("And?")])
    backend.generate = works
    await converse(session, [])
    ledger = session.ledger()
    assert ledger.forks == 1
    assert [sequence.sampled for sequence in ledger.sequences] == [3, 3]


def ids_of(session):
    return [call["id"] for message in session.messages for call in message.get("tool_calls", [])]


async def test_calls_have_ids_that_no_other_of_the_conversation_has(fakes):
    _, session = token_session(fakes, CALL + CALL, CALL, tools=TOOLS)
    await converse(session, [user("Hi")], [user("And?")], [user("And?")])
    ids = ids_of(session)
    assert len(set(ids)) == len(ids) == 4
    assert all(id.isalnum() and len(id) == 9 for id in ids)


async def test_an_id_that_a_server_gives_twice_is_replaced_once():
    replies = [assistant("", [tool_call("lookup", "{}", id)]) for id in ("a", "b", "a", "")]
    session = ChatSession(ScriptedBackend(replies=replies), [], TOOLS)
    await converse(session, *[[user("Hi")]] * 4)
    first, second, *others = ids_of(session)
    assert (first, second) == ("a", "b")
    assert len(set(others)) == 2
    assert not {"a", "b", ""} & set(others)


async def test_a_call_that_was_cut_off_ends_for_that_reason(fakes):
    _, session = token_session(fakes, BROKEN, tools=TOOLS)
    cut, whole = await converse(session, [user("Hi")], max_tokens=9) + await converse(session, [user("Hi")])
    assert (cut.finish_reason, whole.finish_reason) == ("length", "stop")


def written(session, tokenizer):
    """Role and text of each span of each sequence; the spans leave no gap."""
    sequences = session.ledger(spans=True).sequences
    for sequence in sequences:
        assert [span.start for span in sequence.spans] == [0, *(span.end for span in sequence.spans[:-1])]
        assert sequence.spans[-1].end == len(sequence.ids)
    return [
        [(span.role, tokenizer.decode(sequence.ids[span.start : span.end])) for span in sequence.spans]
        for sequence in sequences
    ]


async def test_the_ledger_says_where_each_message_stands(fakes):
    tokenizer = fakes.PieceTokenizer()
    _, session = token_session(fakes, "Hello!", "Bye.", tokenizer=tokenizer, messages=[system("Be kind.")])
    await converse(session, [user("Hi <|im_end|>")], [user("So?"), user("And?")])
    assert written(session, tokenizer) == [
        [
            ("system", "<|im_start|>system\nBe kind.<|im_end|>\n"),
            ("user", "<|im_start|>user\nHi <|im_end|><|im_end|>\n"),
            ("assistant", "<|im_start|>assistant\nHello!<|im_end|>"),
            ("user", "\n<|im_start|>user\nSo?<|im_end|>\n"),
            ("user", "<|im_start|>user\nAnd?<|im_end|>\n"),
            ("assistant", "<|im_start|>assistant\nBye.<|im_end|>"),
        ]
    ]
    assert session.ledger().sequences[0].spans == [], "only those who ask pay for them"


async def test_the_ledger_says_where_each_message_stands_after_a_fork(fakes):
    def reminding(messages):
        return fakes.chatml([*messages[:-1], {**messages[-1], "content": "Now: " + messages[-1]["content"]}])

    tokenizer = fakes.PieceTokenizer(reminding)
    _, session = token_session(fakes, "Hello!", "Bye.", tokenizer=tokenizer)
    await converse(session, [user("Hi")], [user("So?")])
    first, second = written(session, tokenizer)
    assert first == [
        ("user", "<|im_start|>user\nNow: Hi<|im_end|>\n"),
        ("assistant", "<|im_start|>assistant\nHello!<|im_end|>"),
    ]
    assert [role for role, _ in second] == ["user", "assistant"]
    assert second[-1] == ("assistant", "<|im_start|>assistant\nBye.<|im_end|>")


async def test_messages_that_a_template_writes_as_one_have_one_span(fakes):
    tokenizer = fakes.PieceTokenizer()
    _, session = token_session(fakes, CALL + CALL, "Both.", tools=TOOLS, tokenizer=tokenizer)
    results = [tool_result(tool_call("lookup", "{}", f"call_{n}"), text) for n, text in enumerate("ab")]
    await converse(session, [user("Hi")], results)
    [spans] = written(session, tokenizer)
    assert [role for role, _ in spans] == ["user", "assistant", "tool", "assistant"]
    assert "a" in spans[2][1]
    assert "b" in spans[2][1]


@settings(max_examples=50)
@given(
    spoken=st.lists(SPOKEN, min_size=1, max_size=4),
    heard=st.lists(HEARD, min_size=4, max_size=4),
    max_tokens=st.integers(1, 40),
)
async def test_whatever_is_said_each_answer_has_a_span_of_its_own(fakes, spoken, heard, max_tokens):
    _, session = token_session(fakes, *spoken, tools=TOOLS, messages=[system("Be kind.")])
    await converse(session, *heard[: len(spoken)], max_tokens=max_tokens)
    for sequence in session.ledger(spans=True).sequences:
        said = {span.end for span in sequence.spans if span.role == "assistant"}
        ends = [n for n, on in enumerate(sequence.mask, 1) if on and sequence.mask[n : n + 1] != [1]]
        assert said >= set(ends)
        assert not any(
            any(sequence.mask[span.start : span.end]) for span in sequence.spans if span.role != "assistant"
        )


def test_an_image_is_refused_by_a_backend_that_reads_text_alone():
    async def main():
        session = ChatSession(ScriptedBackend(script=["A cat."]), [], ())
        with pytest.raises(
            CapabilityError, match=r"messages\[0\] has a part of the type image_url, and Scri"
        ):
            await session.respond([user([image_part("https://example.org/cat.png")])], Sampling())

    asyncio.run(main())


def test_a_turn_looks_for_images_in_what_is_new_alone():
    looked = []

    class Watched(dict):
        def get(self, key, default=None):
            if key == "parts":
                looked.append(self["content"])
            return super().get(key, default)

    async def main():
        session = ChatSession(ScriptedBackend(["One.", "Two."]), [Watched(system("Be kind."))], ())
        await session.respond([Watched(user("First"))], Sampling())
        assert {"Be kind.", "First"} <= set(looked)
        looked.clear()
        await session.respond([Watched(user("Second"))], Sampling())
        assert set(looked) == {"Second"}

    asyncio.run(main())


def test_an_image_that_was_refused_is_refused_again_when_it_is_tried_again():
    async def main():
        session = ChatSession(ScriptedBackend(script=["A cat."]), [], ())
        for new in ([user([image_part("https://example.org/cat.png")])], []):
            with pytest.raises(CapabilityError, match=r"messages\[0\] has a part"):
                await session.respond(new, Sampling())

    asyncio.run(main())


def test_an_image_is_shown_to_a_backend_that_takes_it():
    async def main():
        backend = ScriptedBackend(script=lambda messages, tools: messages[0]["parts"][0]["image_url"]["url"])
        backend.capabilities |= {Capability.PARTS}
        session = ChatSession(backend, [], ())
        reply = await session.respond([user([image_part("https://example.org/cat.png")])], Sampling())
        assert reply.message["content"] == "https://example.org/cat.png"

    asyncio.run(main())
