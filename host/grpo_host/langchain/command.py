"""An app in another process, in any language: it is started for each answer, and its model is the gateway."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from langchain_core.messages import BaseMessage, convert_to_messages, convert_to_openai_messages
from langchain_core.runnables import Runnable, RunnableConfig

from grpo_host.agents.reply import OnText, Reply
from grpo_host.gateway.server import Answer, Gateway
from grpo_host.langchain.asking import asked
from grpo_host.langchain.source import CALLER, ModelSource
from grpo_host.openai_protocol.completions import ChatCompletionRequest
from grpo_sdk.errors import GrpoError

MOST_OUTPUT = 4 * 2**20
"""Bytes of what an app prints."""
TOLD_OUTPUT = 2000
"""Characters of what it writes to stderr that an error repeats."""
END_SECONDS = 2.0
"""Between SIGTERM and SIGKILL."""


class CommandError(GrpoError):
    """An app's process failed, or printed what is no answer."""


class CommandApp(Runnable[Any, Any]):
    """Starts ``command`` in ``folder`` for each answer.

    Its input is JSON on stdin, its answer what it prints: a JSON object with ``messages`` or
    ``structured_response``, or else text. In its environment ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY``
    lead every client of OpenAI's protocol to the episode's model; other variables are ours, without those
    that hold keys of providers if ``others`` is "refuse". The model that a request names is its role.
    """

    def __init__(
        self, command: Sequence[str], folder: Path, gateway: Gateway, source: ModelSource, others: str
    ) -> None:
        self.name = self._program = Path(command[0]).name
        self._command = list(command)
        self._folder = folder
        self._gateway = gateway
        self._answer = answering(source)
        self._others = others

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Not available: episodes are played in an event loop."""
        raise NotImplementedError("await ainvoke()")

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """What the app answers to ``input``. Raises ``CommandError``."""
        said = json.dumps(input, ensure_ascii=False, default=_plain).encode()
        with self._gateway.key(self._answer) as key:
            status, out, err = await self._run(said, key)
        if status:
            ended = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
            told = err.decode(errors="replace").strip()[-TOLD_OUTPUT:]
            raise CommandError(f"{self._program} {ended}: {told or 'it wrote nothing to stderr'}")
        return _given(self._program, out)

    def _environment(self, key: str) -> dict[str, str]:
        ours = {
            name: value
            for name, value in os.environ.items()
            if self._others == "keep" or not name.endswith(("_API_KEY", "_API_TOKEN"))
        }
        url = self._gateway.url
        return ours | {"OPENAI_BASE_URL": url, "OPENAI_API_BASE": url, "OPENAI_API_KEY": key}

    async def _run(self, said: bytes, key: str) -> tuple[int, bytes, bytes]:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=self._folder,
                env=self._environment(key),
                start_new_session=True,  # so that its children end with it
            )
        except OSError as problem:
            raise CommandError(f"{self._command[0]} cannot be started: {problem}") from problem
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with suppress(ConnectionError):  # it need not read all, or anything
                process.stdin.write(said)
                await process.stdin.drain()
            process.stdin.close()
            out, err = await asyncio.gather(_read(process.stdout), _read(process.stderr, keep_last=True))
            if len(out) > MOST_OUTPUT:
                raise CommandError(f"{self._program} printed more than {MOST_OUTPUT >> 20} MiB")
            return await process.wait(), out, err
        finally:
            await _end(process)


def answering(source: ModelSource) -> Answer:
    """What answers requests of OpenAI's protocol with ``source``; the model that one names is its role."""

    async def answer(request: ChatCompletionRequest, on_text: OnText | None) -> Reply:
        said: dict[str, Any] = request.model_dump(
            include={"max_tokens", "max_completion_tokens", "stop", "parallel_tool_calls"}, exclude_none=True
        )
        said |= request.model_dump(include={"response_format", "tool_choice"}, by_alias=True)
        said["tools"] = request.offered()
        call = asked(said, None, source.capabilities)
        CALLER.set({"lc_agent_name": request.model})
        return await source.respond(request.conversation(), call.tools, call.overrides, on_text)

    return answer


async def _read(stream: asyncio.StreamReader, *, keep_last: bool = False) -> bytes:
    """Read the stream: all of it, or its beginning or end if it is longer than an answer may be."""
    kept = bytearray()
    while part := await stream.read(65536):
        if keep_last:
            kept = (kept + part)[-MOST_OUTPUT:]
        elif len(kept) <= MOST_OUTPUT:
            kept += part
    return bytes(kept)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process and its children, also if the process itself has ended already."""
    if process.returncode is None:
        with suppress(ProcessLookupError, TimeoutError):
            os.killpg(process.pid, signal.SIGTERM)
            await asyncio.wait_for(process.wait(), END_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _given(name: str, out: bytes) -> Any:
    try:
        text = out.decode()
    except UnicodeDecodeError as problem:
        raise CommandError(f"{name} printed what is not UTF-8: {problem}") from problem
    try:
        given = json.loads(text)
    except ValueError:
        return text.strip()
    if not isinstance(given, Mapping):
        return text.strip()
    messages = given.get("messages")
    if isinstance(messages, list):
        try:
            return {**given, "messages": convert_to_messages(messages)}
        except (TypeError, ValueError, KeyError, NotImplementedError) as problem:
            raise CommandError(f"{name} printed messages that are none: {problem}") from problem
    return dict(given)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseMessage):
        return convert_to_openai_messages(value)
    return str(value)
