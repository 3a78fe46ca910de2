from __future__ import annotations

import asyncio
import os
import threading

import pytest

from grpo_host.agents.agent import Agent, AgentLimits, TurnLimitError, TurnTimeoutError
from grpo_host.agents.rendering.template import TemplateRenderer
from grpo_sdk import (
    ChatReply,
    ConfigError,
    Sampling,
    Strategy,
    assistant,
    derive_seed,
    system,
    tool_call,
    user,
)
from grpo_sdk.testing import ScriptedBackend
from grpo_sdk.tools import MALFORMED_CALL, ToolLimits


def calls(*named):
    """An assistant message that calls ``(name, arguments)`` for each of ``named``."""
    return assistant("", [tool_call(name, text, f"call_{i}") for i, (name, text) in enumerate(named)])


def act(agent, *said, **opened):
    """The conversation after the agent has answered each of ``said``."""

    async def run():
        conversation = agent.open(**opened)
        for text in said:
            await conversation.act([user(text)])
        return conversation

    return asyncio.run(run())


def tool_texts(conversation):
    return [m["content"] for m in conversation.session.messages if m["role"] == "tool"]


def look_up(order: str) -> str:
    """Look up an order."""
    return f"{order} is on its way"


def test_an_agent_runs_its_tools_until_it_speaks():
    backend = ScriptedBackend(replies=[calls(("look_up", '{"order": "A12"}')), "On its way."])
    conversation = act(Agent(backend, tools=(look_up,)), "Where is A12?")
    assert [m["role"] for m in conversation.session.messages] == ["user", "assistant", "tool", "assistant"]
    assert tool_texts(conversation) == ["A12 is on its way"]
    first, second = conversation.turns
    assert (first.finish_reason, second.finish_reason) == ("tool_calls", "stop")
    assert [(run.name, run.call_id, run.error) for run in first.tools] == [("look_up", "call_0", None)]
    assert second.tools == []


def test_the_instructions_stand_in_one_system_message():
    strategy = Strategy("service", "You help.", "Be brief.")
    agent = Agent(ScriptedBackend(), strategy=strategy)
    both = act(agent, "Hi", history=[system("The shop is closed."), user("Hm"), assistant("Yes?")])
    own = act(agent, "Hi")
    none = act(Agent(ScriptedBackend()), "Hi", history=[system("")])
    assert both.session.messages[:3] == [
        system("You help.\nBe brief.\nThe shop is closed."), user("Hm"), assistant("Yes?"),
    ]  # fmt: skip
    assert own.session.messages[0] == system("You help.\nBe brief.")
    assert none.session.messages[0] == system("")
    assert act(Agent(ScriptedBackend()), "Hi").session.messages[0] == user("Hi")


def test_a_malformed_call_is_answered_so_that_the_model_can_correct_itself():
    def script(messages, tools):
        if messages[-1]["role"] == "user":
            return calls((MALFORMED_CALL, "{"))
        if "is not valid JSON of the form" in messages[-1]["content"]:
            return calls(("look_up", '{"order": "A12"}'))
        return messages[-1]["content"]

    conversation = act(Agent(ScriptedBackend(script=script), tools=(look_up,)), "Where is A12?")
    assert conversation.session.messages[-1] == assistant("A12 is on its way")
    assert [bool(run.error) for turn in conversation.turns for run in turn.tools] == [True, False]


def test_a_malformed_call_of_a_token_model_is_answered_too(fakes):
    tokenizer = fakes.PieceTokenizer()
    good = '<tool_call>{"name": "look_up", "arguments": {"order": "A12"}}</tool_call>'
    backend = fakes.TokenBackend(tokenizer, good.replace("}}", ""), good, "Soon.")
    conversation = act(Agent(backend, TemplateRenderer(tokenizer), tools=(look_up,)), "Where is A12?")
    answered = tool_texts(conversation)
    assert answered[0].startswith("Error: the call is not valid JSON")
    assert answered[1] == "A12 is on its way"
    for before, after in zip(backend.calls, backend.calls[1:], strict=False):
        held = before.prompt + before.reply.ids
        assert after.prompt[: len(held)] == held


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (("lookup", "{}"), 'Error: no tool "lookup"; the tools are: look_up'),
        (("look_up", "{}"), "Error: invalid arguments for look_up: order: Field required"),
        (("look_up", "[1]"), "Error: the arguments are not a JSON object"),
    ],
)
def test_a_wrong_call_is_answered(call, said):
    conversation = act(Agent(ScriptedBackend(replies=[calls(call), "Sorry."]), tools=(look_up,)), "Hi")
    assert tool_texts(conversation) == [said]
    assert conversation.turns[0].tools[0].error


def test_calls_of_one_message_run_side_by_side():
    barrier = threading.Barrier(3, timeout=5)

    def meet(number: int) -> int:
        """Wait for the others."""
        barrier.wait()
        return number

    backend = ScriptedBackend(replies=[calls(*[("meet", f'{{"number": {i}}}') for i in range(3)]), "Done."])
    assert tool_texts(act(Agent(backend, tools=(meet,)), "Go")) == ["0", "1", "2"]


def test_a_raising_tool_is_an_answer():
    def explode() -> str:
        """Fail."""
        raise KeyError("A12")

    def leave() -> str:
        """Fail in another way."""
        raise SystemExit(2)

    backend = ScriptedBackend(replies=[calls(("explode", "{}"), ("leave", "{}")), "Sorry."])
    texts = tool_texts(act(Agent(backend, tools=(explode, leave)), "Hi"))
    assert texts == ["Error: KeyError: 'A12'", "Error: RuntimeError: SystemExit: 2"]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_hanging_tool_is_an_answer(kind):
    over = threading.Event()

    def hang() -> str:
        """Wait for ever."""
        over.wait()
        return ""

    async def sleep() -> str:
        """Wait for ever."""
        await asyncio.Event().wait()
        return ""

    tool = hang if kind == "sync" else sleep
    backend = ScriptedBackend(replies=[calls((tool.__name__, "{}")), "Sorry."])
    limits = AgentLimits(tools=ToolLimits(seconds=0.05))
    conversation = act(Agent(backend, tools=(tool,), limits=limits), "Hi")
    over.set()
    assert tool_texts(conversation) == ["Error: no answer within 0.05 s"]


def test_ten_megabytes_of_tool_output_are_cut():
    def dump() -> str:
        """Say too much."""
        return "x" * 10_000_000

    backend = ScriptedBackend(replies=[calls(("dump", "{}")), "Hm."])
    conversation = act(Agent(backend, tools=(dump,)), "Hi")
    assert tool_texts(conversation) == ["x" * 4000 + "\n[9996000 characters left out]"]
    assert conversation.turns[0].tools[0].truncated


async def test_the_turn_limit_counts_model_calls_and_keeps_what_was_said():
    backend = ScriptedBackend(replies=[calls(("look_up", '{"order": "A"}'))])
    agent = Agent(backend, tools=(look_up,), limits=AgentLimits(turns=3))

    conversation = agent.open()
    with pytest.raises(TurnLimitError):
        await conversation.act([user("Hi")])
    assert backend.calls == len(conversation.turns) == 3
    assert [m["role"] for m in conversation.session.messages] == ["user", *["assistant", "tool"] * 3]


def test_a_model_that_does_not_answer_is_a_turn_timeout():
    agent = Agent(ScriptedBackend(latency=60), limits=AgentLimits(turn_seconds=0.05))
    with pytest.raises(TurnTimeoutError, match=r"the model did not answer within 0\.05 s"):
        act(agent, "Hi")


def test_a_timeout_of_the_backends_own_is_not_called_ours():
    class Gateway(ScriptedBackend):
        async def chat(self, messages, sampling, tools=()) -> ChatReply:
            raise TimeoutError("the gateway gave up")

    with pytest.raises(TimeoutError, match="the gateway gave up"):
        act(Agent(Gateway()), "Hi")


def test_the_time_of_tools_is_not_the_models():
    async def think() -> str:
        """Take a while."""
        await asyncio.sleep(1.2)
        return ""

    backend = ScriptedBackend(replies=[calls(("think", "{}")), "Done."])
    conversation = act(Agent(backend, tools=(think,), limits=AgentLimits(turn_seconds=1.0)), "Hi")
    assert conversation.turns[0].tools[0].seconds >= 1.2
    assert conversation.turns[0].seconds < conversation.turns[0].tools[0].seconds


def test_tools_of_one_conversation_are_not_those_of_another():
    def open_door() -> str:
        """Open it."""
        return "open"

    agent = Agent(ScriptedBackend(), tools=(look_up,))
    assert agent.open(tools=[open_door]).toolbox.names == ["look_up", "open_door"]
    assert agent.open().toolbox.names == ["look_up"]
    with pytest.raises(ValueError, match='two tools are called "look_up"'):
        agent.open(tools=[look_up])


def test_each_turn_samples_with_a_seed_of_its_own_that_comes_again(fakes):
    def seeds(seed):
        tokenizer = fakes.PieceTokenizer()
        backend = fakes.TokenBackend(tokenizer, "hello")
        agent = Agent(backend, TemplateRenderer(tokenizer), sampling=Sampling(temperature=0.7))
        act(agent, "Hi", "And?", seed=seed)
        assert {call.sampling.temperature for call in backend.calls} == {0.7}
        return [call.sampling.seed for call in backend.calls]

    assert seeds(7) == seeds(7) == [derive_seed(7, 0), derive_seed(7, 1)]
    assert seeds(7) != seeds(8)
    assert seeds(None) == [None, None]


def call_ids_of(seed):
    agent = Agent(ScriptedBackend(script=lambda m, t: calls_without_ids(m)), tools=(look_up,))
    conversation = act(agent, "A12?", "B7?", seed=seed)
    return [call["id"] for m in conversation.session.messages for call in m.get("tool_calls", [])]


def calls_without_ids(messages):
    call = tool_call("look_up", '{"order": "A12"}', "")
    return assistant("", [call, call]) if messages[-1]["role"] == "user" else "Done."


def test_the_ids_of_calls_come_from_the_seed():
    first, again, other = call_ids_of(7), call_ids_of(7), call_ids_of(8)
    assert first == again
    assert len({*first, *other}) == 8


def test_without_a_seed_no_two_conversations_have_an_id_in_common():
    assert len({*call_ids_of(None), *call_ids_of(None)}) == 8


def test_a_conversation_that_begins_again_goes_on_with_its_ids():
    async def run():
        agent = Agent(ScriptedBackend(script=lambda m, t: calls_without_ids(m)), tools=(look_up,))
        conversation = agent.open(seed=7)
        await conversation.act([user("A12?")])
        conversation.begin_again([])
        await conversation.act([user("B7?")])
        return [call["id"] for m in conversation.said for call in m.get("tool_calls", [])]

    assert asyncio.run(run()) == call_ids_of(7)


def file_name() -> str:
    """Name a file."""
    return os.fsdecode(b"\xff.txt")


def no_file() -> str:
    """Open a file."""
    raise FileNotFoundError(os.fsdecode(b"\xff.txt"))


@pytest.mark.parametrize("tool", [file_name, no_file])
def test_a_file_name_that_is_not_utf8_reaches_the_model_and_the_log(tool, caplog):
    backend = ScriptedBackend(replies=[calls((tool.__name__, "{}")), "I see."])
    conversation = act(Agent(backend, tools=(tool,)), "Which file?")
    [text] = tool_texts(conversation)
    assert text.endswith("\ufffd.txt")
    [run] = conversation.turns[0].tools
    assert (run.error or "").isascii() or run.error.endswith("\ufffd.txt")
    assert run.error is None or "\ufffd.txt" in caplog.text
    caplog.text.encode()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"turns": "8"}, "may call its model for a message must be a whole number, not '8'"),
        ({"turn_seconds": "8"}, "the seconds of a model call must be a number, not '8'"),
    ],
)
def test_text_in_the_place_of_a_limit_is_named(given, said):
    with pytest.raises(ConfigError, match=said):
        AgentLimits(**given)
