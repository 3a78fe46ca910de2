"""Contract tests of tools: inherit, say how to make yours and how it is called, run pytest.

from grpo_sdk.testing import ToolContract

class TestDice(ToolContract):
    arguments = {"sides": 6}
    invalid_arguments = ({"sides": "six"},)

    def make(self):
        return dice_tool()
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from grpo_sdk.messages import Message, tool_call
from grpo_sdk.testing.checks import require, require_description, require_json, skip
from grpo_sdk.testing.contract import Contract
from grpo_sdk.toolbox import Toolbox
from grpo_sdk.tools import ToolLike, ToolLimits
from grpo_sdk.trajectory import ToolRun

LIMITS = ToolLimits()


class ToolContract(Contract):
    """What the host relies on in every tool."""

    arguments: ClassVar[Mapping[str, Any]] = {}
    """A call that works."""
    invalid_arguments: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """Calls that do not; the model has to be told why."""

    def make(self) -> ToolLike:
        """Make a new instance of the tool under test."""
        raise NotImplementedError(f"{type(self).__name__} needs def make(self) returning the tool")

    def call(self, *calls: Mapping[str, Any] | str) -> list[tuple[Message, ToolRun]]:
        """Make the tool and call it as the host does, all ``calls`` at once; a text is sent as it is."""
        toolbox = Toolbox([self.make()], LIMITS)
        texts = (call if isinstance(call, str) else json.dumps(call) for call in calls)
        asked = [tool_call(toolbox.names[0], text, f"call_{n}") for n, text in enumerate(texts)]
        return self.run(toolbox.run(asked))

    def schema(self) -> dict[str, Any]:
        """The function schema that the model is shown."""
        return Toolbox([self.make()]).schemas[0]["function"]

    def test_it_has_a_name_that_every_provider_accepts(self) -> None:
        """Fix: letters, digits, ``_`` and ``-``, at most 64: rename the function or the tool."""
        name = self.schema()["name"]
        require(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name), f"{name!r} is no name for a tool")

    def test_the_model_is_told_what_it_does(self) -> None:
        """Fix: write a docstring: it is all that the model knows of the tool."""
        require_description(self.schema())

    def test_every_argument_is_described(self) -> None:
        """Fix: annotate every parameter and describe it under ``Args:`` in the docstring."""
        schema = self.schema()
        require_json(schema, "the schema")
        for name, value in schema.get("parameters", {}).get("properties", {}).items():
            typed = {"type", "anyOf", "allOf", "oneOf", "enum", "$ref"} & set(value)
            require(typed, f'the argument "{name}" has no type: annotate the parameter')
            require(value.get("description"), f'the argument "{name}" has no description under "Args:"')

    def test_a_valid_call_works(self) -> None:
        """Fix: set ``arguments`` to a call that works, and see what it answers here."""
        [(message, run)] = self.call(self.arguments)
        require(run.error is None, f"the call with {dict(self.arguments)} failed: {run.error}")
        require(message["content"].strip(), "the answer is empty: say what happened, a model cannot guess")
        require(not run.truncated, f"the answer is longer than {LIMITS.output_chars} characters: shorten it")

    def test_many_calls_at_once_work(self) -> None:
        """Fix: episodes run side by side: keep no state that two calls could mix up."""
        for _, run in self.call(*[self.arguments] * 16):
            require(run.error is None, f"one of 16 calls at once failed: {run.error}")

    def test_invalid_calls_are_answered_with_the_reason(self) -> None:
        """Fix: raise an exception whose text tells the model what to do differently.

        ``ToolCallError`` of ``grpo_sdk.tools`` is shown as it is; others with their class.
        """
        if not self.invalid_arguments:
            skip("invalid_arguments names no call")
        for arguments, (message, run) in zip(
            self.invalid_arguments, self.call(*self.invalid_arguments), strict=True
        ):
            require(run.error, f"the call with {dict(arguments)} is no error: {message['content']!r:.200}")
            require(
                len(message["content"]) > len("Error: ") + 8 and "Traceback" not in message["content"],
                f"the error does not explain itself: {message['content']!r:.200}",
            )

    def test_text_that_is_no_json_is_answered(self) -> None:
        """Fix: the host does this itself; a failure here is a bug in grpo_sdk."""
        [(message, run)] = self.call("{not json")
        require(run.error and message["role"] == "tool", "a malformed call got no error message")
