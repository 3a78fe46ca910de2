"""Messages to token ids and back, so that a conversation's ids are only ever extended.

``make_renderer`` gives the hand-written renderer of the ``renderers`` library if it knows the
model, and otherwise one on top of the tokenizer's own chat template.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from grpo_host.agents.rendering.reading import TextReader
from grpo_sdk.backend import ModelSpec, Tokenizer
from grpo_sdk.messages import Message, ToolCall, ToolSchema

logger = logging.getLogger("grpo_host.rendering")


class Renderer(Protocol):
    """Both directions between messages and token ids for one tokenizer."""

    stop_ids: tuple[int, ...]
    """Ids that end an assistant message; the first is the one that is taught."""
    doubts: tuple[str, ...]
    """What could not be proven of the model's chat template when it was loaded, in words."""

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

        None if the template gives no proof that history stays as it is.
        """

    def ends(
        self,
        ids: Sequence[int],
        held: Sequence[int],
        completion: Sequence[int],
        new: Sequence[Message],
        tools: Sequence[ToolSchema],
    ) -> list[int | None]:
        """How many of ``ids`` are over at the end of each of ``new``.

        ``ids`` are what ``extension`` gave for the rest of the arguments or, if nothing is ``held``, what
        ``prompt`` gave. None for a message that is written as one with the next.
        """

    def parse(self, completion: Sequence[int], tools: Sequence[ToolSchema]) -> tuple[str, list[ToolCall]]:
        """The text and the tool calls that sampled ids say; malformed calls are kept as such.

        A call has the id that the model wrote, or an empty one: the session gives it one.
        """

    def reader(self, tools: Sequence[ToolSchema]) -> TextReader:
        """What shows the text of a reply while it is sampled."""

    def completion(self, message: Message) -> list[int]:
        """Ids that a policy would have sampled to say ``message``, its end included."""


def make_renderer(tokenizer: Tokenizer, model: ModelSpec | None = None) -> Renderer:
    """The best renderer for ``tokenizer``, of ``model``; what cannot be proven of it is logged.

    Raises ``ModelError`` if it has no chat template, or no token that ends a turn.
    """
    renderer = find_renderer(tokenizer, model)
    for doubt in renderer.doubts:
        logger.warning("model %s: %s", model.name if model else "", doubt)
    return renderer


def find_renderer(tokenizer: Tokenizer, model: ModelSpec | None = None) -> Renderer:
    """As ``make_renderer``, without a word."""
    from grpo_host.agents.rendering.library import library_renderer
    from grpo_host.agents.rendering.template import TemplateRenderer
    from grpo_host.models.resolve import end_ids

    stop, tool_format = (model.stop, model.tool_format) if model else ((), "auto")
    own = not stop and tool_format == "auto"
    if own and (known := library_renderer(tokenizer)) is not None:
        return known
    configured = end_ids(model.path) if model and model.path else ()
    return TemplateRenderer(tokenizer, configured=configured, stop=stop, tool_format=tool_format)
