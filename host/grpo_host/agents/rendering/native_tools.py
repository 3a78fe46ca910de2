"""Tools in a chat template's own form: what it takes, and how the calls that it teaches are read.

All is found by rendering a tool, a call and a result, and looking for them in what comes out.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from grpo_host.agents.rendering.call_scan import CallForm, scan
from grpo_host.agents.rendering.ends import ASKED
from grpo_host.agents.rendering.tool_calls import read_call
from grpo_sdk.errors import CapabilityError
from grpo_sdk.messages import Message, ToolCall, ToolSchema, tool_call
from grpo_sdk.tools import MALFORMED_CALL

NAME, KEY, VALUE, RESULT = "probe_tool", "probe_key", "probe value", "probe result"
_PARAMETERS = {"type": "object", "properties": {KEY: {"type": "string"}}, "required": [KEY]}
TOOL: ToolSchema = {
    "type": "function",
    "function": {"name": NAME, "description": "A probe.", "parameters": _PARAMETERS},
}
CALL = tool_call(NAME, json.dumps({KEY: VALUE}), "call_0")
PROBE: Message = {"role": "assistant", "content": "", "tool_calls": [CALL]}
ANSWER: Message = {"role": "tool", "content": RESULT, "name": NAME, "tool_call_id": "call_0"}

_TAG = re.compile(r"<[^<>\s]*>")

FORMS = {
    "hermes": CallForm("<tool_call>", "</tool_call>"),
    "llama3_json": CallForm("", ""),
    "mistral": CallForm("[TOOL_CALLS]", ""),
    "granite": CallForm("<|tool_call|>", ""),
    "phi4_mini_json": CallForm("functools", ""),
}
"""By the names that vLLM gives them, for ``model.tool_format``."""

Render = Callable[..., str]
"""Messages, ``tools`` and ``generate`` to what the chat template writes."""


@dataclass(frozen=True)
class NativeTools:
    """How a template is given calls and results, and how calls are read."""

    form: CallForm
    short_ids: bool = False
    """Mistral's templates take ids of nine letters and digits alone."""
    arguments_as_text: bool = False
    no_content: str | None = ""
    """The content of a message that only calls."""
    template: dict[str, Any] | None = field(default=None, repr=False)
    """transformers' response template, which reads calls that are not JSON."""
    example: str = ""
    """What the template writes of a call."""

    def messages(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """``messages`` as the template takes them."""
        return [self._message(message) for message in messages]

    def _message(self, message: Message) -> dict[str, Any]:
        role, content = message["role"], message["content"]
        if role == "tool":
            told = {
                "role": role,
                "content": content,
                "tool_call_id": self._id(message.get("tool_call_id", "")),
            }
            return {**told, "name": message["name"]} if "name" in message else told
        calls = message.get("tool_calls", ())
        if not calls:
            return {"role": role, "content": content}
        arguments = [self._arguments(call) for call in calls]
        if None in arguments:  # what no template takes as a call stays the text that it was
            return {"role": role, "content": "\n".join(filter(None, [content, *map(self._as_text, calls)]))}
        written = [
            {
                "id": self._id(call["id"]),
                "type": "function",
                "function": {"name": call["function"]["name"], "arguments": said},
            }
            for call, said in zip(calls, arguments, strict=True)
        ]
        return {"role": role, "content": content or self.no_content, "tool_calls": written}

    def _arguments(self, call: ToolCall) -> Any:
        """None if they are no object."""
        function = call["function"]
        if function["name"] == MALFORMED_CALL:
            return None
        try:
            said = json.loads(function["arguments"] or "{}")
        except (ValueError, RecursionError):
            return None
        if not isinstance(said, dict):
            return None
        return json.dumps(said, ensure_ascii=False) if self.arguments_as_text else said

    def _as_text(self, call: ToolCall) -> str:
        function = call["function"]
        if function["name"] == MALFORMED_CALL:
            return function["arguments"]
        said = json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False)
        return f"{self.form.opening}{said}{self.form.closing}"

    def _id(self, call_id: str) -> str:
        return hashlib.sha256(call_id.encode()).hexdigest()[:9] if self.short_ids else call_id

    def parse(self, text: str, tools: Sequence[ToolSchema]) -> tuple[str, list[ToolCall]]:
        """The text outside of calls, and the calls without ids; what cannot be read is kept as malformed."""
        found = scan(text, self.form, whole=True)
        calls: list[ToolCall] = []
        for call in found.calls:
            try:
                calls += [read_call(item, "") for item in self._read(call.said, tools)]
            except (ValueError, TypeError, KeyError, RecursionError):
                calls.append(tool_call(MALFORMED_CALL, call.written, ""))
        return found.shown.strip(), calls

    def _read(self, raw: str, tools: Sequence[ToolSchema]) -> list[Any]:
        if self.template is not None:
            from transformers.utils.chat_parsing import parse_response

            written = f"{self.form.opening}{raw}{self.form.closing}"
            said: Any = parse_response(written, self.template, prefix="", tools=list(tools)).get("tool_calls")
        elif self.form.middle is not None:
            middle = self.form.middle or "{"
            name, found, arguments = raw.partition(middle)
            text = arguments if self.form.middle else found + arguments
            said = [{"name": name.strip(), "arguments": json.loads(text)}]
        else:
            said = json.loads(raw)
        items = said if isinstance(said, list) else [said]
        if not items:
            raise ValueError("it calls nothing")
        return [item["function"] if isinstance(item, dict) and "function" in item else item for item in items]

    def reads(self, written: str) -> bool:
        """Whether the probe's call is read back from ``written``."""
        _, calls = self.parse(written, [TOOL])
        functions = [call["function"] for call in calls]
        return len(functions) == 1 and functions[0] == {"name": NAME, "arguments": json.dumps({KEY: VALUE})}


def takes_tools(render: Render) -> bool:
    """Whether the template shows the model a tool that it is given."""
    try:
        return NAME in render([ASKED], tools=[TOOL]) and NAME not in render([ASKED])
    except (CapabilityError, TypeError):
        return False


def find_tools(
    render: Render, closing: str, response_template: dict[str, Any] | None, form: CallForm | None = None
) -> NativeTools | None:
    """How a template that takes tools is given calls, and how they are read; None if that is not found.

    ``closing`` ends a turn. ``form``, if given, is how calls are read, whatever the template writes.
    """
    for given in _ways():
        written = _written(render, given, [PROBE], closing)
        if written is None or not _shows_results(render, given):
            continue
        given = replace(given, example=written)
        if form is not None:
            return replace(given, form=form)
        twice: Message = {**PROBE, "tool_calls": [CALL, {**CALL, "id": "call_1"}]}
        both = _written(render, given, [twice], closing)
        candidates = [replace(given, form=found) for found in _forms(written, both)]
        plain = _tags(written, both)
        if plain is not None and not any(tools.reads(written) for tools in candidates):
            templates = filter(None, [response_template, *_known_templates()])
            candidates = [replace(given, form=plain, template=template) for template in templates]
        found = next((tools for tools in candidates if tools.reads(written)), None)
        if found is not None:
            return found
    return None


def _ways() -> Iterator[NativeTools]:
    for no_content in ("", None):
        for arguments_as_text in (False, True):
            for short_ids in (False, True):
                yield NativeTools(CallForm("", ""), short_ids, arguments_as_text, no_content)


def _written(render: Render, tools: NativeTools, said: Sequence[Message], closing: str) -> str | None:
    """What the template writes of what was ``said``, between its opening and its end."""
    try:
        opening = render([ASKED], tools=[TOOL], generate=True)
        whole = render([ASKED, *tools.messages(said)], tools=[TOOL])
    except (CapabilityError, TypeError):
        return None
    asked = ASKED["content"]
    written = whole.removeprefix(opening) if whole.startswith(opening) else whole.rpartition(asked)[2]
    written = written.rpartition(closing)[0] if closing and closing in written else written
    return written if all(text in written for text in (NAME, KEY, VALUE)) else None


def _shows_results(render: Render, tools: NativeTools) -> bool:
    try:
        return RESULT in render([ASKED, *tools.messages([PROBE, ANSWER])], tools=[TOOL], generate=True)
    except (CapabilityError, TypeError):
        return False


def _forms(written: str, both: str | None) -> Iterator[CallForm]:
    """The JSON forms in which the probe's call may stand in ``written``."""
    name = written.index(NAME)
    for start in (at for at, letter in enumerate(written[:name]) if letter in "[{"):
        end = _end_of_json(written, start)
        if end is not None and end > name:
            opening, closing = _around(written, both, start, end)
            yield CallForm(opening.strip(), closing.strip())
            break
    start = written.find("{", name)
    end = _end_of_json(written, start) if start >= 0 else None
    if end is not None:
        opening, closing = _around(written, both, name, end)
        yield CallForm(opening.strip(), closing.strip(), written[name + len(NAME) : start].strip())


def _tags(written: str, both: str | None) -> CallForm | None:
    """The tags that stand around the probe's call, whose arguments are not JSON."""
    start, end = written.index(NAME), written.rindex(VALUE) + len(VALUE)
    before, behind = _around(written, both, start, end)
    opening = _TAG.findall(before) or _TAG.findall(written[:start])
    closing = _TAG.findall(behind) or _TAG.findall(written[end:])
    return CallForm(opening[-1], closing[-1], json=False) if opening and closing else None


def _around(written: str, both: str | None, start: int, end: int) -> tuple[str, str]:
    """What stands before and behind every call: between two calls both stand side by side."""
    before, behind = written[:start], written[end:]
    if both is None or not both.startswith(written[:end]):
        return before, behind
    second = both.find(written[start:end], end)
    if second < 0:
        return before, behind
    between = both[end:second]
    opening = before[len(before) - _same(before[::-1], between[::-1]) :]
    if len(opening) < len(before) and "<" in opening:
        opening = opening[opening.index("<") :]  # not the end of another tag
    return opening, behind[: _same(behind, between)]


def _same(one: str, other: str) -> int:
    """How many of the first letters of both are the same."""
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )


def _end_of_json(text: str, start: int) -> int | None:
    try:
        return json.JSONDecoder().raw_decode(text, start)[1]
    except ValueError:
        return None


def _known_templates() -> list[dict[str, Any]]:
    """TRL's response templates of known families; none if TRL is not installed."""
    try:
        from trl import chat_template_utils
    except ImportError:
        return []
    named = vars(chat_template_utils).items()
    return [value for name, value in named if name.endswith("_template") and isinstance(value, dict)]
