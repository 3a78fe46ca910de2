"""Formats in which no call can be forced. Those in which it can are in ``test_constraints.py``."""

from __future__ import annotations

import pytest

from grpo_host.agents.rendering.call_syntax import call_syntax
from grpo_host.agents.rendering.template import TemplateRenderer
from grpo_sdk.errors import CapabilityError


class TakesNoCalls(TemplateRenderer):
    def completion(self, message):
        if "tool_calls" in message:
            raise ValueError("the template takes no calls")
        return super().completion(message)


class ReadsNoCalls(TemplateRenderer):
    def parse(self, completion, tools):
        return self.tokenizer.decode(completion), []


@pytest.mark.parametrize(
    ("kind", "said"),
    [(TakesNoCalls, "writes no tool call"), (ReadsNoCalls, "for a tool call, and it is not read back")],
)
def test_a_format_that_cannot_be_forced_is_refused_with_what_it_writes(fakes, kind, said):
    tokenizer = fakes.PieceTokenizer()
    with pytest.raises(CapabilityError, match=f"tool calls cannot be constrained .*{said}"):
        call_syntax(kind(tokenizer), tokenizer)


def test_our_own_format_is_found_as_it_is_written(fakes):
    tokenizer = fakes.PieceTokenizer()
    syntax = call_syntax(TemplateRenderer(tokenizer), tokenizer)
    call = '<tool_call>{"name": "probe_tool", "arguments": {"probe_key": "probe value"}}</tool_call>'
    assert syntax.example(2) == f"{call}\n{call}"
    assert syntax.opening == "<tool_call>"
