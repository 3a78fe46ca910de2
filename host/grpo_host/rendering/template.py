"""A renderer on top of any chat template, which proves of each extension that it rewrites nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grpo_host.rendering.ends import ANSWERED, ASKED, SAID, find_ends
from grpo_host.rendering.plain_text import PlainText
from grpo_host.rendering.reading import PlainReader, TextReader
from grpo_host.rendering.tool_calls import as_plain_messages, assistant_text, parse_calls
from grpo_sdk.backend import Tokenizer
from grpo_sdk.errors import CapabilityError, ModelError
from grpo_sdk.messages import Message, ToolCall, ToolSchema, assistant, user


class TemplateRenderer:
    """Renders with ``apply_chat_template``; tools are described in the system prompt.

    An extension is what the template puts behind the end of an assistant message. It is taken
    from rendering a conversation with a stand-in for history, and given only if a longer stand-in,
    which ends with what the assistant really said, keeps its words and gives the same text. So a
    template that looks back (drops reasoning, numbers turns) is recognised. The text is tokenized
    by itself, which is exact because a special token stands before it. What messages say is text,
    also where it spells a special token.

    ``configured`` are the ids at which the model's own settings stop it, ``stop`` the user's.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, configured: Sequence[int] = (), stop: Sequence[str | int] = ()
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
        self.doubts: tuple[str, ...] = tuple(filter(None, [self._ends.doubt or self._doubt()]))

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSchema]) -> list[int]:
        shielded = self._plain.shield(self._messages(messages, tools))
        return self._plain.encode(self._render(shielded.messages, generate=True), shielded)

    def extension(
        self,
        held: Sequence[int],
        completion: Sequence[int],
        new: Sequence[Message],
        tools: Sequence[ToolSchema],
    ) -> list[int] | None:
        shielded = self._plain.shield(as_plain_messages(new, ()))
        said = self.tokenizer.decode(list(completion), skip_special_tokens=True)
        first = self._suffix([SAID], shielded.messages)
        if first is None or first != self._suffix(["No", said], shielded.messages):
            return None
        ids = self._plain.encode(first, shielded)
        ended = bool(completion) and completion[-1] in self.stop_ids
        if self._ends.closing:
            return ids if ended else self._plain.encode_markers(self._ends.closing) + ids
        # The next message's first token ends this one.
        if ids[:1] != [self.stop_ids[0]] if not ended else ids[:1] != [completion[-1]]:
            return None
        return ids[1:] if ended else ids

    def _suffix(self, answers: Sequence[str], new: list[dict[str, str]]) -> str | None:
        """What the template writes behind the last of ``answers`` where ``new`` follows it."""
        history: list[dict[str, str]] = []
        for answer in answers:
            history += [ASKED, {**ANSWERED, "content": answer}]
        before = self._render(history, generate=False)
        after = self._render([*history, *new], generate=True)
        closing = self._ends.closing
        said, end, _ = before.rpartition(closing) if closing else (before, "", "")
        head = said + end
        return after[len(head) :] if end == closing and after.startswith(head) else None

    def parse(self, completion: Sequence[int], tools: Sequence[ToolSchema]) -> tuple[str, list[ToolCall]]:
        ids = list(completion)
        if ids and ids[-1] in self.stop_ids:
            ids.pop()
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return parse_calls(text) if tools else (text.strip(), [])

    def reader(self, tools: Sequence[ToolSchema]) -> TextReader:
        return PlainReader(self.tokenizer, self.stop_ids, tools=bool(tools))

    def completion(self, message: Message) -> list[int]:
        shielded = self._plain.shield(as_plain_messages([message], ()))
        opening = self._render([ASKED], generate=True)
        whole = self._render([ASKED, *shielded.messages], generate=False)
        closing = self._ends.closing
        said, end, _ = whole.rpartition(closing) if closing else (whole, "", "")
        last = [] if closing else [self.stop_ids[0]]
        if end == closing and said.startswith(opening):
            return self._plain.encode(said.removeprefix(opening) + end, shielded) + last
        return self._plain.encode_text(assistant_text(message)) + self._plain.encode_markers(closing) + last

    def _messages(self, messages: Sequence[Message], tools: Sequence[ToolSchema]) -> list[dict[str, str]]:
        """``messages`` in the roles that the template has."""
        plain = as_plain_messages(messages, tools)
        if self._takes_system or not plain or plain[0]["role"] != "system":
            return plain
        first, rest = plain[0]["content"], plain[1:]
        if rest and rest[0]["role"] == "user":
            first, rest = f"{first}\n\n{rest[0]['content']}", rest[1:]
        return [{"role": "user", "content": first}, *rest]

    def _has_a_place_for_system_messages(self) -> bool:
        try:
            return SAID in self._render([{"role": "system", "content": SAID}, ASKED], generate=True)
        except CapabilityError:
            return False

    def _doubt(self) -> str:
        """What stands against extending a conversation, found by trying it."""
        history, said, new = [user(ASKED["content"])], assistant(SAID), [user("And?")]
        try:
            held, completion = self.prompt(history, ()), self.completion(said)
            more = self.extension(held, completion, new, ())
            whole = self.prompt([*history, said, *new], ())
        except CapabilityError as problem:
            return str(problem)
        if more is None:
            return (
                "its chat template writes what was said otherwise once another message follows, so every "
                "turn begins a new sequence"
            )
        if self._decoded([*held, *completion, *more]) != self._decoded(whole):
            return (
                "its chat template writes an earlier answer otherwise than the model is asked to say it; "
                "conversations go on with what was sampled"
            )
        return ""

    def _decoded(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=False)

    def _render(self, messages: list[dict[str, str]], *, generate: bool) -> str:
        from jinja2 import TemplateError

        try:
            text: Any = self.tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generate
            )
        except TemplateError as problem:
            raise CapabilityError(
                f"the model's chat template takes no such conversation: {problem}"
            ) from problem
        return str(text)
