"""The ``renderers`` library behind our ``Renderer``: hand-written renderers of known model families."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from grpo_host.agents.rendering.reading import GrowingReader, TextReader
from grpo_host.agents.rendering.tool_calls import as_written, parse_calls, read_call
from grpo_host.models.resolve import hub_id
from grpo_sdk.backend import Tokenizer
from grpo_sdk.messages import Message, ToolCall, ToolSchema, tool_call
from grpo_sdk.tools import MALFORMED_CALL

_HERMES = re.compile(r"\s*<tool_call>\s*\{")


def library_renderer(tokenizer: Tokenizer) -> LibraryRenderer | None:
    """A renderer made for ``tokenizer``'s model, or None if the library has none."""
    path = getattr(tokenizer, "name_or_path", "")
    name = hub_id(path) or path
    if Path(name).is_dir():
        return None  # it is known by no hub's id; importing the library takes a second
    try:
        from renderers.base import MODEL_RENDERER_MAP, create_renderer
    except ImportError:
        return None
    if name not in MODEL_RENDERER_MAP:
        return None
    named: Any = copy.copy(tokenizer)
    named.name_or_path = name  # the library goes by it; backends load from a directory
    return LibraryRenderer(create_renderer(named), tokenizer)


class LibraryRenderer:
    """Adapts one renderer of the library."""

    doubts: tuple[str, ...] = ()

    def __init__(self, renderer: Any, tokenizer: Tokenizer) -> None:
        self._renderer = renderer
        self._tokenizer = tokenizer
        self.stop_ids: tuple[int, ...] = tuple(renderer.get_stop_token_ids())

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSchema]) -> list[int]:
        shown = list(map(as_written, messages))
        return list(self._renderer.render_ids(shown, tools=_specs(tools), add_generation_prompt=True))

    def extension(
        self,
        held: Sequence[int],
        completion: Sequence[int],
        new: Sequence[Message],
        tools: Sequence[ToolSchema],
    ) -> list[int] | None:
        before = [*held, *completion]
        bridged = self._renderer.bridge_to_next_turn(
            list(held), list(completion), list(new), tools=_specs(tools)
        )
        if bridged is None or bridged.token_ids[: len(before)] != before:
            return None
        return list(bridged.token_ids[len(before) :])

    def ends(
        self,
        ids: Sequence[int],
        held: Sequence[int],
        completion: Sequence[int],
        new: Sequence[Message],
        tools: Sequence[ToolSchema],
    ) -> list[int | None]:
        if held:
            written = self._renderer.bridge_to_next_turn(
                list(held), list(completion), list(new), tools=_specs(tools)
            )
        else:
            shown = list(map(as_written, new))
            written = self._renderer.render(shown, tools=_specs(tools), add_generation_prompt=True)
        before = len(held) + len(completion)
        spans = written.message_token_spans()
        ends = [span[1] - before if span else None for span in spans]
        return [*ends, *[None] * (len(new) - len(ends))]

    def parse(self, completion: Sequence[int], tools: Sequence[ToolSchema]) -> tuple[str, list[ToolCall]]:
        parsed = self._renderer.parse_response(list(completion), tools=_specs(tools))
        calls = self._read_as_json(completion, parsed.tool_calls)
        return parsed.content, calls or [self._call(attempt, completion) for attempt in parsed.tool_calls]

    def _read_as_json(self, completion: Sequence[int], attempts: Sequence[Any]) -> list[ToolCall]:
        """The calls of a family that writes JSON between tags, in whose strings a tag may stand."""
        starts = [attempt.token_span[0] for attempt in attempts if attempt.token_span]
        if not starts:
            return []
        ids = [id for id in completion[min(starts) :] if id not in self.stop_ids]
        written = self._tokenizer.decode(ids)
        return parse_calls(written)[1] if _HERMES.match(written) else []

    def _call(self, attempt: Any, completion: Sequence[int]) -> ToolCall:
        id = attempt.id or ""  # some models write one
        if attempt.status == "ok":
            try:
                return read_call({"name": attempt.name, "arguments": attempt.arguments}, id)
            except (TypeError, ValueError, RecursionError):
                pass  # no name, or arguments that are no JSON object
        span = attempt.token_span  # with the marks of a call, which ``raw`` lacks
        raw = self._tokenizer.decode(list(completion[slice(*span)])) if span else attempt.raw
        return tool_call(MALFORMED_CALL, raw, id)

    def reader(self, tools: Sequence[ToolSchema]) -> TextReader:
        return GrowingReader(lambda ids: self.parse(ids, tools)[0], tools=bool(tools))

    def completion(self, message: Message) -> list[int]:
        probe = [{"role": "user", "content": "Hello"}]
        before = self._renderer.render_ids(probe, add_generation_prompt=True)
        after = self._renderer.render_ids([*probe, message])
        ids = list(after[len(before) :])
        for index, token in enumerate(ids):
            if token in self.stop_ids:
                return ids[: index + 1]
        return [*ids, self.stop_ids[0]]


def _specs(tools: Sequence[ToolSchema]) -> list[dict[str, Any]] | None:
    return [tool["function"] for tool in tools] or None
