"""The caller's trace goes on in the requests of the backend ``openai``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from grpo_backends.openai_http import OpenAIChatBackend
from grpo_sdk import ModelSpec, Sampling, user

REMOTE = SpanContext(
    0xA, 0xB, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("v", "1")])
)


async def sent(
    serve: Any, context: Context | None, ask: Callable[[OpenAIChatBackend], Any], *answers: Any
) -> dict[str, str]:
    """The headers of one request made in ``context``."""

    async with serve(*answers) as server:
        backend = OpenAIChatBackend(ModelSpec("mock"), base_url=server.base_url)
        await backend.start()
        token = attach(context) if context is not None else None
        try:
            await ask(backend)
        finally:
            if token is not None:
                detach(token)
            await backend.close()
        headers: dict[str, str] = server.headers[0]
        return headers


async def chat(backend: OpenAIChatBackend) -> None:
    await backend.chat([user("Hi")], Sampling())


async def stream(backend: OpenAIChatBackend) -> None:
    async for _ in backend.stream([user("Hi")], Sampling()):
        pass


async def test_a_request_carries_the_span_that_is_active(chat_server: Any, protocol: Any) -> None:
    span = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("chat")
    headers = await sent(chat_server, trace.set_span_in_context(span), chat, protocol.completion())

    context = span.get_span_context()
    ids = f"{context.trace_id:032x}-{context.span_id:016x}"
    assert headers["traceparent"] == f"00-{ids}-{context.trace_flags:02x}"


async def test_so_does_a_streamed_one(chat_server: Any, protocol: Any) -> None:
    context = trace.set_span_in_context(NonRecordingSpan(REMOTE))
    events = [protocol.chunk({"content": "a"}), protocol.chunk({}, "stop"), "[DONE]"]

    assert (await sent(chat_server, context, stream, events))["traceparent"] == f"00-{0xA:032x}-{0xB:016x}-01"


async def test_a_trace_that_this_process_only_passes_on_is_passed_on_whole(
    chat_server: Any, protocol: Any
) -> None:
    context = baggage.set_baggage("tenant", "a b", trace.set_span_in_context(NonRecordingSpan(REMOTE)))
    headers = await sent(chat_server, context, chat, protocol.completion())

    assert (headers["tracestate"], headers["baggage"]) == ("v=1", "tenant=a+b")


async def test_without_a_span_nothing_is_added(chat_server: Any, protocol: Any) -> None:
    headers = await sent(chat_server, None, chat, protocol.completion())

    assert not {"traceparent", "tracestate", "baggage"} & set(headers)


@pytest.mark.parametrize("value", ["x\r\nauthorization: Bearer stolen", "x\ny", "é"])
def test_no_value_can_end_a_line(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    from opentelemetry import propagate

    from grpo_backends.trace_context import head_lines

    monkeypatch.setattr(propagate, "inject", lambda headers: headers.update({"baggage": value, "a": "1"}))
    with trace.use_span(NonRecordingSpan(REMOTE)):
        assert head_lines() == b"a: 1\r\n"


def test_the_client_loads_no_opentelemetry_of_its_own_accord() -> None:
    code = "import sys, grpo_backends.openai_http; exit('opentelemetry.trace' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
