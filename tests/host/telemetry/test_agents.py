"""Conversations as spans and metrics of the GenAI conventions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from grpo_host.agents.agent import Agent, AgentLimits, TurnTimeoutError
from grpo_host.backends.threaded import ThreadedBackend
from grpo_host.backends.wrapper import BackendWrapper
from grpo_host.chat.agent import ChatAgent
from grpo_host.telemetry.agents import AgentInstruments, provider_name
from grpo_sdk import Backend, Capability, ChatReply, ModelSpec, Sampling, Strategy, assistant, tool_call, user
from grpo_sdk.backend import FinishReason
from grpo_sdk.messages import Message
from grpo_sdk.tools import ToolLimits

CAPTURE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
SECRET = "my order is Q4711"


def order_status(order: str) -> str:
    """Where an order is."""
    return f"order {order} is on its way"


async def refund(order: str) -> str:
    """Pay an order back."""
    raise ValueError(f"order {order} is too old")


class Scripted(Backend):
    """Answers with ``replies`` in their order."""

    capabilities = frozenset({Capability.CHAT, Capability.TOOLS, Capability.STREAMING})

    def __init__(self, *replies: Message | Exception) -> None:
        super().__init__(ModelSpec("smollm2-135m"))
        self.replies = list(replies)
        self.active: list[str] = []

    async def chat(self, messages: Any, sampling: Sampling, tools: Any = ()) -> ChatReply:
        self.active.append(getattr(trace.get_current_span(), "name", ""))
        await asyncio.sleep(0)
        said = self.replies.pop(0)
        if isinstance(said, Exception):
            raise said
        return ChatReply(said, "tool_calls" if "tool_calls" in said else "stop", 10, 3)

    async def stream(
        self, messages: Any, sampling: Sampling, tools: Any = ()
    ) -> AsyncIterator[str | ChatReply]:
        reply = await self.chat(messages, sampling, tools)
        for word in reply.message["content"].split():
            yield word
        yield reply


class Slow(Scripted):
    async def chat(self, messages: Any, sampling: Sampling, tools: Any = ()) -> ChatReply:
        await asyncio.sleep(60)
        raise AssertionError


def called(*calls: tuple[str, dict[str, str]], first: int = 0) -> Message:
    numbered = enumerate(calls, first)
    return assistant("", [tool_call(name, json.dumps(a), f"call-{i}") for i, (name, a) in numbered])


TWO_ROUNDS = (
    called(("order_status", {"order": "Q4711"})),
    called(("refund", {"order": "Q4711"}), ("order_status", {"order": "Q4712"}), first=1),
    assistant("It is on its way."),
)


def agent(telemetry: Any, backend: Backend, **parts: Any) -> Agent:
    return Agent(
        backend,
        strategy=Strategy("customer_service", "You are kind."),
        tools=(order_status, refund),
        sampling=Sampling(max_tokens=64, temperature=0.5, seed=7),
        instruments=AgentInstruments(**telemetry.providers),
        **parts,
    )


async def talk(subject: Agent, text: str = SECRET) -> Message:
    return await subject.open(id="conversation-1").act([user(text)])


async def test_a_chat_with_two_rounds_of_tools_is_one_tree_of_spans(telemetry: Any) -> None:
    await talk(agent(telemetry, Scripted(*TWO_ROUNDS)))

    shown = telemetry.tree(
        "gen_ai.operation.name",
        "gen_ai.conversation.id",
        "gen_ai.agent.name",
        "gen_ai.request.model",
        "gen_ai.response.finish_reasons",
        "gen_ai.tool.call.id",
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.output_tokens",
        "error.type",
    )
    chat = (
        "chat smollm2-135m gen_ai.operation.name=chat gen_ai.conversation.id=conversation-1 "
        "gen_ai.request.model=smollm2-135m gen_ai.response.finish_reasons=('{}',) "
        "gen_ai.usage.input_tokens=10 gen_ai.usage.output_tokens=3"
    )
    tool = "execute_tool {0} gen_ai.operation.name=execute_tool gen_ai.agent.name=customer_service gen_ai.tool.call.id={1}"
    assert shown.splitlines() == [
        "invoke_agent customer_service gen_ai.operation.name=invoke_agent "
        "gen_ai.conversation.id=conversation-1 gen_ai.agent.name=customer_service "
        "gen_ai.request.model=smollm2-135m gen_ai.usage.input_tokens=30 gen_ai.usage.output_tokens=9",
        "  " + chat.format("tool_call"),
        "  " + tool.format("order_status", "call-0"),
        "  " + chat.format("tool_call"),
        "  " + tool.format("refund", "call-1") + " error.type=ValueError",
        "  " + tool.format("order_status", "call-2"),
        "  " + chat.format("stop"),
    ]


async def test_all_spans_of_a_chat_are_one_trace_and_a_next_message_is_another(telemetry: Any) -> None:
    subject = agent(telemetry, Scripted(*TWO_ROUNDS, assistant("Bye.")))

    conversation = subject.open(id="c")
    await conversation.act([user("a")])
    await conversation.act([user("b")])

    traces = {span.context.trace_id: span.parent is None for span in telemetry.spans}
    assert len(traces) == 2
    assert telemetry.spans[-2].attributes["gen_ai.usage.input_tokens"] == 10


async def test_a_chat_span_says_how_it_was_sampled_and_by_whom(telemetry: Any) -> None:
    await talk(agent(telemetry, Scripted(assistant("Hello."))))

    attributes = telemetry.span("chat smollm2-135m").attributes
    assert {k: v for k, v in attributes.items() if k.startswith("gen_ai.request.")} == {
        "gen_ai.request.model": "smollm2-135m",
        "gen_ai.request.max_tokens": 64,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 7,
    }
    assert attributes["gen_ai.provider.name"] == "scripted"


async def test_the_chat_span_is_current_where_the_backend_runs(telemetry: Any) -> None:
    backend = Scripted(assistant("Hello."))
    await talk(agent(telemetry, backend))

    assert backend.active == ["chat smollm2-135m"]


def everything_exported(telemetry: Any) -> str:
    spans = [span.to_json() for span in telemetry.spans]
    logs = [
        log.log_record.to_json() if hasattr(log.log_record, "to_json") else repr(log)
        for log in telemetry.logs.get_finished_logs()
    ]
    return "\n".join([*spans, *logs, telemetry.reader.get_metrics_data().to_json()])


async def test_nothing_that_was_said_is_captured_by_default(
    telemetry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CAPTURE, raising=False)
    await talk(agent(telemetry, Scripted(*TWO_ROUNDS)))

    exported = everything_exported(telemetry)
    for said in (SECRET, "Q4711", "on its way", "You are kind"):
        assert said not in exported


async def test_content_is_captured_on_spans_where_the_variable_asks_for_it(
    telemetry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CAPTURE, "SPAN_ONLY")
    await talk(agent(telemetry, Scripted(*TWO_ROUNDS)))

    invoked = telemetry.span("invoke_agent customer_service").attributes
    assert json.loads(invoked["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"content": SECRET, "type": "text"}], "name": None}
    ]
    assert json.loads(invoked["gen_ai.output.messages"])[0]["parts"] == [
        {"content": "It is on its way.", "type": "text"}
    ]
    assert json.loads(invoked["gen_ai.system_instructions"]) == [{"content": "You are kind.", "type": "text"}]
    chats = [span.attributes for span in telemetry.spans if span.name.startswith("chat")]
    last = json.loads(chats[-1]["gen_ai.input.messages"])
    assert [message["role"] for message in last] == ["user", "assistant", "tool", "assistant", "tool", "tool"]
    assert last[1]["parts"] == [
        {"arguments": {"order": "Q4711"}, "name": "order_status", "id": "call-0", "type": "tool_call"}
    ]
    assert last[2]["parts"][0]["response"] == "order Q4711 is on its way"
    assert {d["name"] for d in json.loads(chats[0]["gen_ai.tool.definitions"])} == {"order_status", "refund"}
    refunded = telemetry.span("execute_tool refund")
    assert json.loads(refunded.attributes["gen_ai.tool.call.arguments"]) == {"order": "Q4711"}
    assert refunded.status.description == "ValueError: order Q4711 is too old"


async def test_content_goes_into_events_alone_where_the_variable_says_so(
    telemetry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CAPTURE, "EVENT_ONLY")
    await talk(agent(telemetry, Scripted(assistant("Hello."))))

    assert "gen_ai.input.messages" not in telemetry.span("chat smollm2-135m").attributes
    (event,) = telemetry.logs.get_finished_logs()
    assert event.log_record.event_name == "gen_ai.client.inference.operation.details"
    assert event.log_record.attributes["gen_ai.output.messages"][0]["parts"][0]["content"] == "Hello."


async def test_a_model_call_that_fails_names_its_error_and_not_its_text(telemetry: Any) -> None:
    with pytest.raises(ConnectionError):
        await talk(agent(telemetry, Scripted(ConnectionError(f"said: {SECRET}"))))

    for name in ("chat smollm2-135m", "invoke_agent customer_service"):
        span = telemetry.span(name)
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
        assert span.attributes["error.type"] == "ConnectionError"
        assert not span.events


async def test_a_model_that_does_not_answer_in_time_is_a_time_out_on_both_spans(telemetry: Any) -> None:
    with pytest.raises(TurnTimeoutError):
        await talk(agent(telemetry, Slow(), limits=AgentLimits(turn_seconds=0.02)))

    kinds = {span.name.partition(" ")[0]: span.attributes["error.type"] for span in telemetry.spans}
    assert kinds == dict.fromkeys(("chat", "invoke_agent"), "grpo_host.agents.agent.TurnTimeoutError")


async def test_a_conversation_that_is_cancelled_says_so(telemetry: Any) -> None:
    async def give_up() -> None:
        async with asyncio.timeout(0.02):
            await agent(telemetry, Slow()).open().act([user("Hello")])

    with pytest.raises(TimeoutError):
        await give_up()

    assert {span.attributes["error.type"] for span in telemetry.spans} == {"cancelled"}


async def test_a_tool_that_the_model_made_up_names_neither_span_nor_metric(telemetry: Any) -> None:
    await talk(agent(telemetry, Scripted(called(("delete_all_Q4711", {})), assistant("No."))))

    span = telemetry.span("execute_tool unknown")
    assert span.attributes["error.type"] == "tool_error"
    (point,) = telemetry.points("gen_ai.execute_tool.duration")
    assert point.attributes["gen_ai.tool.name"] == "unknown"


async def test_a_tool_that_takes_too_long_fails_its_span(telemetry: Any) -> None:
    async def wait() -> str:
        """Wait."""
        await asyncio.sleep(60)
        return ""

    limits = AgentLimits(tools=ToolLimits(seconds=0.02))
    subject = replace(
        agent(telemetry, Scripted(called(("wait", {})), assistant("Well.")), limits=limits), tools=(wait,)
    )
    await talk(subject)

    assert telemetry.span("execute_tool wait").status.status_code is StatusCode.ERROR


async def test_tools_that_run_side_by_side_do_not_nest(telemetry: Any) -> None:
    async def slow(order: str) -> str:
        """Slow."""
        await asyncio.sleep(0.01)
        return order

    calls = called(*(("slow", {"order": str(i)}) for i in range(3)))
    subject = replace(agent(telemetry, Scripted(calls, assistant("Done."))), tools=(slow,))
    await talk(subject)

    (root,) = [span for span in telemetry.spans if span.parent is None]
    tools = [span for span in telemetry.spans if span.name == "execute_tool slow"]
    assert [span.parent.span_id for span in tools] == [root.context.span_id] * 3


async def test_the_metrics_of_the_conventions_are_recorded(telemetry: Any) -> None:
    await talk(agent(telemetry, Scripted(*TWO_ROUNDS)))

    counts = {
        name: sum(point.count for point in telemetry.points(name))
        for name in (
            "gen_ai.invoke_agent.duration",
            "gen_ai.client.operation.duration",
            "gen_ai.client.token.usage",
            "gen_ai.execute_tool.duration",
        )
    }
    assert counts == {
        "gen_ai.invoke_agent.duration": 1,
        "gen_ai.client.operation.duration": 3,
        "gen_ai.client.token.usage": 6,
        "gen_ai.execute_tool.duration": 3,
    }


def test_a_call_without_an_agent_can_be_watched_and_its_chunks_are_timed(telemetry: Any) -> None:
    instruments = AgentInstruments(**telemetry.providers)
    backend = Scripted(assistant("one two three"))
    with instruments.model_call(backend, [user("count")], Sampling(), conversation_id="c") as call:
        for word in ("one", "two", "three"):
            call.text(word)

    (span,) = telemetry.spans
    assert span.attributes["gen_ai.request.stream"] is True
    assert span.attributes["gen_ai.conversation.id"] == "c"
    (first,) = telemetry.points("gen_ai.client.operation.time_to_first_chunk")
    (each,) = telemetry.points("gen_ai.client.operation.time_per_output_chunk")
    assert (first.count, each.count) == (1, 2)


@pytest.mark.parametrize("how", ["whole", "streamed", "failed"])
def test_the_metrics_of_a_call_are_the_same_whether_it_is_traced_or_not(
    make_telemetry: Any, how: str
) -> None:
    traced, untraced = make_telemetry(), make_telemetry()
    for providers in traced.providers, {"meter_provider": untraced.meters}:
        instruments = AgentInstruments(**providers)
        backend = Scripted(assistant("one two three"))
        with (
            suppress(ZeroDivisionError),
            instruments.model_call(backend, [user("count")], Sampling()) as call,
        ):
            if how == "streamed":
                for word in ("one", "two", "three"):
                    call.text(word)
            if how == "failed":
                raise ZeroDivisionError
            call.replied(
                SimpleNamespace(finish_reason=FinishReason.STOP, prompt_tokens=7, completion_tokens=3)
            )

    assert traced.spans
    assert untraced.spans == []
    assert series(untraced) == series(traced)
    assert len(series(traced)) == {"whole": 3, "streamed": 5, "failed": 1}[how]


def series(telemetry: Any) -> set[Any]:
    """What the metrics of model calls are kept under: names, units, buckets, attributes, counts."""
    return {
        (name, point.explicit_bounds, point.count, *sorted(point.attributes.items()))
        for name in (
            "gen_ai.client.operation.duration",
            "gen_ai.client.token.usage",
            "gen_ai.client.operation.time_to_first_chunk",
            "gen_ai.client.operation.time_per_output_chunk",
        )
        for point in telemetry.points(name)
    }


def test_a_backend_that_carries_calls_to_another_is_called_what_the_other_is() -> None:
    class VllmBackend(Scripted):
        """Named by its class."""

    class Hosted(Scripted):
        provider = "openai"

    assert provider_name(BackendWrapper(VllmBackend())) == "vllm"
    assert provider_name(BackendWrapper(BackendWrapper(Hosted()))) == "openai"


async def test_an_agent_that_nothing_watches_makes_no_spans(telemetry: Any) -> None:
    subject = replace(agent(telemetry, Scripted(*TWO_ROUNDS)), instruments=None)
    await talk(subject)

    assert telemetry.spans == []


async def test_the_span_is_current_in_a_backend_that_runs_in_another_thread_too(telemetry: Any) -> None:
    backend = Scripted(assistant("Hello."))

    carried = ThreadedBackend(backend)
    await carried.start()
    await agent(telemetry, carried).open().act([user("Hi")])
    await carried.close()

    assert backend.active == ["chat smollm2-135m"]


def chat_agent(telemetry: Any, monkeypatch: pytest.MonkeyPatch, backend: Backend) -> ChatAgent:
    """As an application has it, which knows nothing of instruments."""
    made = AgentInstruments(**telemetry.providers)
    monkeypatch.setattr("grpo_host.chat.agent.instruments", lambda: made)
    return ChatAgent(Agent(backend), strategy="customer_service", tools=(order_status, refund))


async def test_a_chat_agent_is_watched_with_the_id_of_the_conversation(
    telemetry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = chat_agent(telemetry, monkeypatch, Scripted(*TWO_ROUNDS))

    async def go() -> str:
        begun = await chat.start_conversation(conversation_id="c-1")
        return await chat.respond(begun.conversation_id, SECRET)

    assert await go() == "It is on its way."
    assert telemetry.tree("gen_ai.conversation.id").splitlines() == [
        "invoke_agent customer_service gen_ai.conversation.id=c-1",
        "  chat smollm2-135m gen_ai.conversation.id=c-1",
        "  execute_tool order_status",
        "  chat smollm2-135m gen_ai.conversation.id=c-1",
        "  execute_tool refund",
        "  execute_tool order_status",
        "  chat smollm2-135m gen_ai.conversation.id=c-1",
    ]


async def test_a_streamed_answer_is_one_tree_too_and_times_its_chunks(
    telemetry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = chat_agent(telemetry, monkeypatch, Scripted(*TWO_ROUNDS))

    async def go() -> list[str]:
        begun = await chat.start_conversation(conversation_id="c-1")
        return [piece async for piece in chat.stream(begun.conversation_id, SECRET)]

    assert "".join(await go()).endswith("Itisonitsway.")
    assert [span.name for span in telemetry.spans if span.parent is None] == ["invoke_agent customer_service"]
    last = [span for span in telemetry.spans if span.name.startswith("chat")][-1]
    assert last.attributes["gen_ai.request.stream"] is True
    assert last.attributes["gen_ai.response.time_to_first_chunk"] > 0


async def test_a_reader_who_leaves_a_stream_early_ends_its_spans(
    telemetry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Endless(Scripted):
        async def stream(self, messages: Any, sampling: Sampling, tools: Any = ()) -> Any:
            while True:
                yield "word "
                await asyncio.sleep(0)

    chat = chat_agent(telemetry, monkeypatch, Endless())

    begun = await chat.start_conversation()
    async with aclosing(chat.stream(begun.conversation_id, "Hi")) as pieces:
        async for _ in pieces:
            break

    assert {span.name: span.attributes["error.type"] for span in telemetry.spans} == {
        "chat smollm2-135m": "cancelled",
        "invoke_agent customer_service": "cancelled",
    }
