"""What the model is shown of conversations that grow too long, through the whole agent."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_host.agents.agent import Agent
from grpo_host.agents.rendering.template import TemplateRenderer
from grpo_host.chat.agent import ChatAgent
from grpo_host.chat.answering import Window
from grpo_host.chat.context import counter, steps
from grpo_host.chat.store import Digest
from grpo_host.chat.summary import INSTRUCTIONS
from grpo_sdk import ConfigError, ContextOverflowError, ModelSpec, Sampling, Strategy, assistant, tool_call
from grpo_sdk.testing import ScriptedBackend


def summing_up(answer="Fine.", summary="They talked."):
    """A script: ``summary`` where one is asked for, else ``answer``."""

    def script(messages, tools):
        return summary if messages[0]["content"] == INSTRUCTIONS else answer

    return script


def backend_of(script, context=2048):
    return Agent(ScriptedBackend(ModelSpec("scripted", context=context), script=script))


def look_up(order: str) -> str:
    """Look up an order."""
    return f"{order} " * 10


CALLS = [tool_call("look_up", '{"order": "A"}', "c0"), tool_call("look_up", '{"order": "B"}', "c1")]


@settings(max_examples=150)
@given(
    said=st.lists(st.tuples(st.integers(1, 60), st.integers(0, 3)), min_size=1, max_size=12),
    tokens=st.integers(90, 500),
    turns=st.integers(1, 8),
    threshold=st.sampled_from([0.3, 0.6, 1.0]),
    policy=st.sampled_from(["summarise", "drop"]),
)
@pytest.mark.slow
async def test_no_conversation_loses_what_matters_or_leaves_its_budget(
    said, tokens, turns, threshold, policy
):
    """``said``: words of each message, and how many rounds of tools the model takes for it."""
    shown = []
    rounds = {f"m{number} " + "word " * words: rounds for number, (words, rounds) in enumerate(said)}

    def script(messages, tools):
        if messages[0]["content"] == INSTRUCTIONS:
            return "They talked about words."
        shown.append((list(messages), tools))
        asked = [m["content"] for m in messages if m["role"] == "user"][-1]
        done = len(shown) - first[0]
        return assistant("", CALLS) if tools and done <= rounds.get(asked, 0) else "Fine, " + "well " * 5

    first = [0]
    sampling = Sampling(max_tokens=20)
    agent = ChatAgent(
        backend_of(script),
        strategy=Strategy("s", "Be kind."),
        tools=[look_up],
        sampling=sampling,
        window=Window(tokens, turns, threshold, policy),
    )

    def cannot_fit(text):
        count = counter(None, shown_tools)
        return (
            count([{"role": "system", "content": "Be kind."}, {"role": "user", "content": text}])
            > tokens - 20
        )

    def check(messages, tools, text):
        assert messages[0]["role"] == "system"
        assert messages[0]["content"].startswith("Be kind.")
        assert [m["content"] for m in messages if m["role"] == "user"][-1] == text
        assert counter(None, tools)(messages) <= tokens - 20
        assert sum(m["role"] == "user" for m in messages) <= turns
        for part in steps(messages):
            calls = part[0].get("tool_calls", [])
            assert len(part) == 1 + len(calls)

    from grpo_sdk.toolbox import Toolbox

    shown_tools = Toolbox([look_up]).schemas
    context = await agent.start_conversation()
    for text in rounds:
        first[0] = len(shown)
        try:
            await agent.respond(context.conversation_id, text)
        except ContextOverflowError:
            assert cannot_fit(text)
            continue
        for messages, tools in shown[first[0] :]:
            check(messages, tools, text)
    history = await agent.history(context.conversation_id)
    kept = [m["content"] for m in history if m["role"] == "user"]
    assert kept == [text for text in rounds if text in kept]


@pytest.mark.parametrize("turns", [4, 100])
def test_older_turns_are_summed_up_by_the_model(chat, turns):
    asked = []

    def script(messages, tools):
        if messages[0]["content"] == INSTRUCTIONS:
            asked.append(messages[1]["content"])
            return f"Summary {len(asked)}."
        return "Fine."

    talk = chat(
        script,
        window=Window(400, turns, 0.5),
        sampling=Sampling(max_tokens=50),
        strategy=Strategy("s", "Be kind."),
    )
    for number in range(12):
        talk.say(f"Message {number} of a conversation that grows and grows")
    assert asked
    assert "User: Message 0 of" in asked[0]
    assert "Assistant: Fine." in asked[0]
    if len(asked) > 1:
        assert asked[1].startswith("The notes until now:\nSummary 1.\n\nThe conversation:")
        assert "Message 0 of" not in asked[1]
    assert talk.system == f"Be kind.\n\nWhat was said earlier, in short: Summary {len(asked)}."
    assert "Message 0" not in str(talk.shown[-1])
    assert [m["content"] for m in talk.history if m["role"] == "user"] == [
        f"Message {number} of a conversation that grows and grows" for number in range(12)
    ]


def test_a_summary_is_kept_and_not_made_again(chat):
    talk = chat(summing_up(), window=Window(turns=4))
    for number in range(5):
        talk.say(str(number))
    calls = len(talk.shown)
    record = asyncio.run(talk.agent.record(talk.id))
    assert record.digest == Digest(6, "They talked.")
    talk.say("5")
    assert len(talk.shown) == calls + 1


def test_with_the_policy_drop_no_model_is_asked(chat):
    talk = chat(window=Window(turns=2, policy="drop"))
    for number in range(6):
        talk.say(str(number))
    assert len(talk.shown) == 6
    assert max(sum(m["role"] == "user" for m in shown) for shown in talk.shown) == 2
    assert talk.system == ""


def test_a_lower_threshold_compresses_earlier(chat):
    def put_away(threshold):
        talk = chat(summing_up(), window=Window(600, 100, threshold), sampling=Sampling(max_tokens=10))
        for number in range(6):
            talk.say(f"{number} " + "word " * 20)
        return asyncio.run(talk.agent.record(talk.id)).digest.messages

    assert put_away(1.0) == 0 < put_away(0.3)


def test_a_summary_that_fails_is_logged_and_the_answer_comes(chat, caplog):
    def script(messages, tools):
        if messages[0]["content"] == INSTRUCTIONS:
            raise ConnectionError("down")
        return "Fine."

    talk = chat(script, window=Window(turns=2))
    assert [talk.say(text) for text in "abc"] == ["Fine."] * 3
    assert "the summary of 4 messages failed, they are left out: ConnectionError: down" in caplog.text


def test_a_summary_that_is_too_long_is_left_out_rather_than_the_last_message(chat):
    talk = chat(summing_up(summary="word " * 400), window=Window(300, 2), sampling=Sampling(max_tokens=20))
    for text in ("one", "two", "three"):
        assert talk.say(text) == "Fine."
    assert talk.shown[-1][-1]["content"] == "three"
    assert "word" not in talk.system


def test_messages_too_long_to_read_are_mentioned_in_the_summary(chat):
    asked = []

    def script(messages, tools):
        if messages[0]["content"] == INSTRUCTIONS:
            asked.append(messages[1]["content"])
            return "They talked."
        return "Fine."

    agent = backend_of(script, context=600)
    talk = chat(model=agent, window=Window(turns=1), sampling=Sampling(max_tokens=20))
    talk.say("word " * 320)
    talk.say("Hi")
    [request] = asked
    assert "[Here stood a message of" in request
    assert "Assistant: Fine." in request


def test_long_histories_are_summed_up_piece_by_piece(chat):
    asked = []

    def script(messages, tools):
        if messages[0]["content"] == INSTRUCTIONS:
            asked.append(messages[1]["content"])
            return f"Part {len(asked)}."
        return "Fine."

    talk = chat(
        model=backend_of(script, context=500),
        window=Window(turns=40, threshold=1.0),
        sampling=Sampling(max_tokens=5),
    )
    talk.agent.window = Window(tokens=500, turns=40)
    for number in range(3):
        talk.say(f"{number} " + "word " * 70)
    talk.agent.window = Window(tokens=500, turns=1)
    talk.say("Hi")
    assert len(asked) >= 2
    assert all(counter(None, [])([{"role": "user", "content": text}]) < 500 for text in asked)
    assert "Part 1." in asked[1]


def test_a_last_message_that_cannot_fit_says_what_to_do(chat):
    talk = chat(window=Window(100), sampling=Sampling(max_tokens=20))
    with pytest.raises(
        ContextOverflowError, match=r"take \d+ tokens, and 80 of the context.*raise the context"
    ):
        talk.say("word " * 200)
    assert talk.history == []
    assert talk.say("Hi") == "to Hi"


def test_examples_give_way_to_the_conversation(chat):
    class Examples:
        def search(self, query, k=3):
            from grpo_host.dialogues import Dialogue

            return [Dialogue("1", "a " * 20, expected_response="b " * 20)]

    talk = chat(examples=Examples(), window=Window(200, threshold=1.0), sampling=Sampling(max_tokens=20))
    talk.say("Hi")
    assert "Examples of" in talk.system
    talk.say("word " * 95)
    assert "Examples of" not in talk.system


def test_tool_results_that_pile_up_are_dropped_oldest_first_and_whole(chat):
    def script(messages, tools):
        done = sum(m["role"] == "tool" for m in messages)
        return (
            assistant("", [tool_call("dump", f'{{"number": {len(talk.shown)}}}', "c")])
            if len(talk.shown) < 6
            else str(done)
        )

    def dump(number: int) -> str:
        """Say much."""
        return f"<{number}> " + "word " * 60

    talk = chat(script, tools=[dump], window=Window(420, threshold=1.0), sampling=Sampling(max_tokens=20))
    talk.say("Go")
    last = talk.shown[-1]
    assert last[0]["content"] == "Go"
    assert [m["role"] for m in last] == ["user", *["assistant", "tool"] * (len(last) // 2)]
    assert last[-1]["content"].startswith("<5>")
    assert len(last) < 11
    assert sum(m["role"] == "tool" for m in talk.history) == 5


def test_a_backend_that_counts_more_tokens_is_shown_less(chat):
    refused = []

    def script(messages, tools):
        if len(messages) > 3:
            refused.append(len(messages))
            raise ContextOverflowError("too long for me")
        return "Fine."

    talk = chat(script, window=Window(400, threshold=1.0, policy="drop"), sampling=Sampling(max_tokens=20))
    for number in range(4):
        assert talk.say(f"{number} " + "word " * 40) == "Fine."
    assert refused
    assert talk.shown[-1][-1]["content"].startswith("3 ")


async def test_a_token_model_is_kept_within_its_context_exactly(fakes):
    tokenizer = fakes.PieceTokenizer()
    backend = fakes.TokenBackend(tokenizer, "hello", context=200)
    agent = ChatAgent(
        Agent(backend, TemplateRenderer(tokenizer)),
        sampling=Sampling(max_tokens=20),
        window=Window(150, policy="drop"),
    )

    context = await agent.start_conversation()
    for number in range(10):
        assert await agent.respond(context.conversation_id, f"hello {number}") == "hello"
    assert max(len(call.prompt) for call in backend.calls) <= 130
    assert {call.sampling.max_tokens for call in backend.calls} == {20}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0}, "a share above 0 and at most 1, not 0"),
        ({"threshold": 1.5}, "a share above 0 and at most 1, not 1.5"),
        ({"turns": 0}, "at least 1 turn, not 0"),
        ({"tokens": 3}, "at least 16 tokens, not 3"),
        ({"policy": "forget"}, 'policy is "summarise" or "drop", not "forget"'),
    ],
)
def test_a_window_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        Window(**options)


def test_compressing_is_told_to_the_log(chat, caplog):
    caplog.set_level(logging.INFO, "grpo_host.chat")
    talk = chat(window=Window(turns=1, policy="drop"))
    talk.say("a")
    talk.say("b")
    assert "put 2 older messages away" in caplog.text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tokens": "2048"}, r"the context must be a whole number, not '2048'"),
        ({"turns": "20"}, r"the number of turns must be a whole number, not '20'"),
        ({"turns": 2.5}, r"the number of turns must be a whole number, not 2\.5"),
        ({"threshold": "0.8"}, r"the compression threshold must be a number, not '0\.8'"),
        ({"threshold": True}, r"the compression threshold must be a number, not True"),
    ],
)
def test_text_in_the_place_of_a_number_is_named(given, said):
    with pytest.raises(ConfigError, match=said):
        Window(**given)
