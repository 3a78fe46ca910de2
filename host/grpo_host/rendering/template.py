"""A renderer on top of any chat template, which proves of each extension that it rewrites nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grpo_host.rendering.plain_text import PlainText
from grpo_host.rendering.reading import PlainReader, TextReader
from grpo_host.rendering.tool_calls import as_plain_messages, assistant_text, parse_calls
from grpo_sdk.backend import Tokenizer
from grpo_sdk.errors import CapabilityError, ModelError
from grpo_sdk.messages import Message, ToolCall, ToolSchema


class TemplateRenderer:
    """Renders with ``apply_chat_template``; tools are described in the system prompt.

    An extension is what the template puts behind an assistant message's end token. It is taken
    from rendering a conversation with a stand-in for history, and given only if a longer stand-in,
    which ends with what the assistant really said, keeps its words and gives the same text. So a
    template that looks back (drops reasoning, numbers turns) is recognised. The text is tokenized
    by itself, which is exact because a special token stands before it. What messages say is text,
    also where it spells a special token.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        if not tokenizer.chat_template:
            raise ModelError(
                "the model's tokenizer has no chat template, so it cannot hold a conversation; "
                "choose an instruct or chat model"
            )
        if tokenizer.eos_token_id is None:
            raise ModelError("the model's tokenizer has no end token; set eos_token in its config")
        self.tokenizer = tokenizer
        self.stop_ids: tuple[int, ...] = (tokenizer.eos_token_id,)
        self._end = tokenizer.decode([tokenizer.eos_token_id])
        self._plain = PlainText(tokenizer)

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSchema]) -> list[int]:
        shielded = self._plain.shield(as_plain_messages(messages, tools))
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
        first = self._suffix(["Yes, 7."], shielded.messages)
        if first is None or first != self._suffix(["No", said], shielded.messages):
            return None
        ended = bool(completion) and completion[-1] in self.stop_ids
        return ([] if ended else [self.stop_ids[0]]) + self._plain.encode(first, shielded)

    def _suffix(self, answers: Sequence[str], new: list[dict[str, str]]) -> str | None:
        """What the template writes behind the last of ``answers`` where ``new`` follows it."""
        history: list[dict[str, str]] = []
        for answer in answers:
            history += [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": answer}]
        before = self._render(history, generate=False)
        after = self._render([*history, *new], generate=True)
        said, end, _ = before.rpartition(self._end)
        head = said + end
        return after[len(head) :] if end and after.startswith(head) else None

    def parse(self, completion: Sequence[int], tools: Sequence[ToolSchema]) -> tuple[str, list[ToolCall]]:
        ids = list(completion)
        if ids and ids[-1] in self.stop_ids:
            ids.pop()
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return parse_calls(text) if tools else (text.strip(), [])

    def reader(self, tools: Sequence[ToolSchema]) -> TextReader:
        return PlainReader(self.tokenizer, self.stop_ids, tools=bool(tools))

    def completion(self, message: Message) -> list[int]:
        return [*self._plain.encode_text(assistant_text(message)), self.stop_ids[0]]

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
