"""A renderer on top of any chat template, which proves of each extension that it rewrites nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from grpo_host.agents.rendering.ends import ANSWERED, ASKED, SAID, find_ends
from grpo_host.agents.rendering.native_tools import (
    ANSWER,
    FORMS,
    PROBE,
    TOOL,
    NativeTools,
    find_tools,
    takes_tools,
)
from grpo_host.agents.rendering.plain_text import PlainText, Shielded, added_texts
from grpo_host.agents.rendering.reading import PlainReader, TextReader
from grpo_host.agents.rendering.tool_calls import TEXT, as_plain_messages, assistant_text, parse_calls
from grpo_sdk.backend import Tokenizer
from grpo_sdk.errors import CapabilityError, ModelError
from grpo_sdk.messages import Message, ToolCall, ToolSchema, assistant, tool_call, user


class TemplateRenderer:
    """Renders with ``apply_chat_template``.

    If the template takes tools, they, their calls and their results are given in its own form; else
    tools are described in the system prompt.

    An extension is what the template puts behind the end of an assistant message. It is taken
    from rendering a conversation with a stand-in for history, and given only if a longer stand-in,
    which ends with what the assistant really said, keeps its words and gives the same text. So a
    template that looks back (drops reasoning, numbers turns) is recognised. The text is tokenized
    by itself, which is exact because a special token stands before it. What messages say is text,
    also if it spells a special token.

    ``configured`` are the ids at which the model's own settings stop it, ``stop`` the user's.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        configured: Sequence[int] = (),
        stop: Sequence[str | int] = (),
        tool_format: str = "auto",
    ) -> None:
        if not tokenizer.chat_template:
            raise ModelError(
                "the model's tokenizer has no chat template, so it cannot hold a conversation; "
                "choose an instruct or chat model"
            )
        self.tokenizer = tokenizer
        self._plain = PlainText(tokenizer)
        self._takes_system = self._has_a_place_for_system_messages()
        self._ends = find_ends(tokenizer, self._render, configured, stop)
        self.stop_ids: tuple[int, ...] = self._ends.ids
        self._takes_tools = tool_format != "text" and takes_tools(self._render)
        self.native = self._find_native_tools(tool_format)
        """Tools in the template's own form; None: they are described in the system prompt."""
        self._hidden = self._special_ids_outside_of_calls()
        self._end_of_calls = self._find_end_of_calls()
        self.doubts: tuple[str, ...] = tuple(dict.fromkeys(filter(None, self._doubts())))

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSchema]) -> list[int]:
        return self._prompt(messages, tools, generate=True)

    def _prompt(
        self, messages: Sequence[Message], tools: Sequence[ToolSchema], *, generate: bool
    ) -> list[int]:
        if self.native is None:
            shielded = self._plain.shield(self._folded(as_plain_messages(messages, tools)))
        else:
            shielded = self._plain.shield(self._folded(self.native.messages(messages)), tools)
        text = self._render(shielded.messages, tools=shielded.tools, generate=generate)
        return self._plain.encode(text, shielded)

    def extension(
        self,
        held: Sequence[int],
        completion: Sequence[int],
        new: Sequence[Message],
        tools: Sequence[ToolSchema],
    ) -> list[int] | None:
        return self._extension(completion, new, tools, generate=True)

    def ends(
        self,
        ids: Sequence[int],
        held: Sequence[int],
        completion: Sequence[int],
        new: Sequence[Message],
        tools: Sequence[ToolSchema],
    ) -> list[int | None]:
        found: list[int | None] = []
        for count in range(1, len(new) + 1):
            try:
                if held:
                    written = self._extension(completion, new[:count], tools, generate=False)
                else:
                    written = self._prompt(new[:count], tools, generate=False)
            except CapabilityError:  # a template that takes no conversation which ends so
                written = None
            found.append(len(written) if written and list(ids[: len(written)]) == written else None)
        return found

    def _extension(
        self,
        completion: Sequence[int],
        new: Sequence[Message],
        tools: Sequence[ToolSchema],
        *,
        generate: bool,
    ) -> list[int] | None:
        shielded = self._plain.shield(self._for_template(new), tools if self.native else ())
        stand_in, said = self._answers(completion, new, tools)
        first = self._suffix([stand_in], shielded, generate=generate)
        longer = [{**ANSWERED, "content": "No"}, said]
        if first is None or first != self._suffix(longer, shielded, generate=generate):
            return None
        ids = self._plain.encode(first, shielded)
        ended = bool(completion) and completion[-1] in self.stop_ids
        if self._ends.closing:
            return ids if ended else self._plain.encode_markers(self._ends.closing) + ids
        # The next message's first token ends this one.
        if ids[:1] != [completion[-1]] if ended else ids[0] not in self.stop_ids:
            return None
        return ids[1:] if ended else ids

    def _answers(
        self, completion: Sequence[int], new: Sequence[Message], tools: Sequence[ToolSchema]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """A stand-in for what was said before ``new``, and what was really said."""
        if self.native is None:
            said = self.tokenizer.decode(list(completion), skip_special_tokens=True)
            return ANSWERED, {**ANSWERED, "content": said}
        results = list(takewhile(lambda message: message["role"] == "tool", new))
        ids = [message.get("tool_call_id", "") for message in results]
        names = [message.get("name", "tool") for message in results]
        calls = [tool_call(name, "{}", id) for name, id in zip(names, ids, strict=True)]
        text, really = self.parse(completion, tools or [TOOL])
        for call, id in zip(really, ids, strict=False):
            call["id"] = id
        stand_in, said_so = self.native.messages(
            [assistant("" if calls else SAID, calls), assistant(text, really)]
        )
        return stand_in, said_so

    def _suffix(
        self, answers: Sequence[dict[str, Any]], new: Shielded, *, generate: bool = True
    ) -> str | None:
        """What the template writes behind the last of ``answers`` if ``new`` follows it."""
        history = [message for answer in answers for message in (ASKED, answer)]
        try:
            before = self._render(history, tools=new.tools, generate=False)
            after = self._render([*history, *new.messages], tools=new.tools, generate=generate)
        except CapabilityError:
            return None  # what stands against the conversation itself is said when it is rendered anew
        closing = self._ends.closing
        said, end, _ = before.rpartition(closing) if closing else (before, "", "")
        head = said + end
        return after[len(head) :] if end == closing and after.startswith(head) else None

    def parse(self, completion: Sequence[int], tools: Sequence[ToolSchema]) -> tuple[str, list[ToolCall]]:
        ids = list(completion)
        if ids and ids[-1] in self.stop_ids:
            ids.pop()
        if not tools:
            return self.tokenizer.decode(ids, skip_special_tokens=True).strip(), []
        text = self._text(ids)
        return parse_calls(text) if self.native is None else self.native.parse(text, tools)

    def reader(self, tools: Sequence[ToolSchema]) -> TextReader:
        form = self.native.form if self.native else TEXT
        decode = self._text if tools else None
        return PlainReader(self.tokenizer, self.stop_ids, tools=bool(tools), form=form, decode=decode)

    def _text(self, ids: Sequence[int]) -> str:
        """What ``ids`` say, with the special tokens that belong to calls."""
        if self._hidden is None:
            return self.tokenizer.decode(ids, skip_special_tokens=True)
        return self.tokenizer.decode([id for id in ids if id not in self._hidden], skip_special_tokens=False)

    def completion(self, message: Message) -> list[int]:
        shielded = self._plain.shield(self._for_template([message]))
        opening = self._render([ASKED], generate=True)
        whole = self._render([ASKED, *shielded.messages], generate=False)
        closing = self._ends.closing
        said, end, _ = whole.rpartition(closing) if closing else (whole, "", "")
        calls = self.native is not None and bool(message.get("tool_calls"))
        last = [] if closing else [self._end_of_calls if calls else self.stop_ids[0]]
        if end == closing and said.startswith(opening):
            return self._plain.encode(said.removeprefix(opening) + end, shielded) + last
        return self._plain.encode_text(assistant_text(message)) + self._plain.encode_markers(closing) + last

    def _for_template(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        if self.native is not None:
            return self.native.messages(messages)
        return list(as_plain_messages(messages, ()))

    def _folded(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """``messages`` in the roles that the template has."""
        if self._takes_system or not messages or messages[0]["role"] != "system":
            return list(messages)
        first, rest = messages[0]["content"], messages[1:]
        if rest and rest[0]["role"] == "user":
            first, rest = f"{first}\n\n{rest[0]['content']}", rest[1:]
        return [{"role": "user", "content": first}, *rest]

    def _find_native_tools(self, tool_format: str) -> NativeTools | None:
        form = FORMS.get(tool_format)
        if form is None and tool_format not in ("auto", "text"):
            known = ", ".join(["auto", "text", *FORMS])
            raise ModelError(f'model.tool_format: there is no format "{tool_format}". There are: {known}')
        template = getattr(self.tokenizer, "response_template", None)
        found = find_tools(self._render, self._ends.closing, template, form) if self._takes_tools else None
        if form is not None and found is None:
            what = "does not write calls and results" if self._takes_tools else "takes no tools"
            raise ModelError(
                f"model.tool_format: {tool_format}: the model's chat template {what}. Leave it at auto"
            )
        return found

    def _find_end_of_calls(self) -> int:
        """What ends a message with calls: where the next message's first token does, not what ends others."""
        if self.native is not None and not self._ends.closing:
            answer = self._plain.shield(self.native.messages([ANSWER]), [TOOL])
            follows = self._suffix(self.native.messages([PROBE]), answer)
            if follows:
                first = self._plain.encode(follows, answer)[0]
                self.stop_ids = tuple(dict.fromkeys([*self.stop_ids, first]))
                return first
        return self.stop_ids[0]

    def _special_ids_outside_of_calls(self) -> frozenset[int] | None:
        """None if no call has a special token in it."""
        if self.native is None:
            return None
        form = self.native.form
        written = " ".join([form.opening, form.closing, form.middle or "", self.native.example])
        special = added_texts(self.tokenizer, special=True)
        if not any(text in written for text in special):
            return None
        texts = [text for text in special if text not in written]
        return frozenset(id for text in texts for id in self._plain.encode_markers(text))

    def _has_a_place_for_system_messages(self) -> bool:
        try:
            return SAID in self._render([{"role": "system", "content": SAID}, ASKED], generate=True)
        except CapabilityError:
            return False

    def _doubts(self) -> Iterator[str]:
        if self._ends.doubt:
            yield self._ends.doubt
            return
        if self._takes_tools and self.native is None:
            yield (
                "its chat template takes tools, and how it writes calls and results was not found out, so "
                "tools are described in the system prompt"
            )
        talking = self._doubt(assistant(SAID), user("And?"), ())
        yield talking
        if self.native is not None and not talking:
            yield self._doubt(PROBE, ANSWER, [TOOL])

    def _doubt(self, said: Message, new: Message, tools: Sequence[ToolSchema]) -> str:
        """What stands against extending a conversation, found by trying it."""
        history = [user(ASKED["content"])]
        when = "once a tool has answered" if tools else "once another message follows"
        try:
            held, completion = self.prompt(history, tools), self.completion(said)
            more = self.extension(held, completion, [new], tools)
            whole = self.prompt([*history, said, new], tools)
        except CapabilityError as problem:
            return str(problem)
        if more is None:
            return (
                f"its chat template writes what was said otherwise {when}, so every turn then begins a "
                "new sequence"
            )
        if self._decoded([*held, *completion, *more]) != self._decoded(whole):
            return (
                f"its chat template writes an earlier answer otherwise {when} than the model is asked to "
                "say it; conversations go on with what was sampled"
            )
        return ""

    def _decoded(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def _render(
        self, messages: Sequence[Any], *, tools: Sequence[Any] | None = None, generate: bool = False
    ) -> str:
        from jinja2 import TemplateError

        given = {"tools": list(tools)} if tools else {}
        try:
            text: Any = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=generate, **given
            )
        except (TemplateError, TypeError) as problem:
            raise CapabilityError(
                f"the model's chat template takes no such conversation: {problem}"
            ) from problem
        return str(text)
