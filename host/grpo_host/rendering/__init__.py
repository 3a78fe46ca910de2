"""Messages to token ids and back, so that a conversation's ids are only ever extended.

``make_renderer`` gives the hand-written renderer of the ``renderers`` library where it knows the
model, and otherwise one on top of the tokenizer's own chat template.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from grpo_host.rendering.reading import TextReader
from grpo_sdk.backend import Tokenizer
from grpo_sdk.messages import Message, ToolCall, ToolSchema


class Renderer(Protocol):
    """Both directions between messages and token ids for one tokenizer."""

    stop_ids: tuple[int, ...]
    """Ids that end an assistant message."""

    def prompt(self, messages: Sequence[Message], tools: Sequence[ToolSchema]) -> list[int]:
        """Ids of the whole conversation, ready for the assistant to speak."""

    def extension(
        self,
        held: Sequence[int],
        completion: Sequence[int],
        new: Sequence[Message],
        tools: Sequence[ToolSchema],
    ) -> list[int] | None:
        """Ids to append to ``held + completion`` so that the assistant answers ``new``.

        None where the template gives no proof that history stays as it is.
        """

    def parse(self, completion: Sequence[int], tools: Sequence[ToolSchema]) -> tuple[str, list[ToolCall]]:
        """The text and the tool calls that sampled ids say; malformed calls are kept as such."""

    def reader(self, tools: Sequence[ToolSchema]) -> TextReader:
        """What shows the text of a reply while it is sampled."""

    def completion(self, message: Message) -> list[int]:
        """Ids that a policy would have sampled to say ``message``, its end included."""


def make_renderer(tokenizer: Tokenizer) -> Renderer:
    """The best renderer for ``tokenizer``. Raises ``ModelError`` where it has no chat template."""
    from grpo_host.rendering.library import library_renderer
    from grpo_host.rendering.template import TemplateRenderer

    return library_renderer(tokenizer) or TemplateRenderer(tokenizer)
