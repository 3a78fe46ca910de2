"""What the host relies on: an inherited test that fails says how to mend it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from grpo_sdk.testing import ToolContract
from grpo_sdk.tools import ToolLike

from acme_plugin.tool import add_numbers


class TestAddNumbers(ToolContract):
    arguments: ClassVar[Mapping[str, Any]] = {"first": 2, "second": 40}
    invalid_arguments: ClassVar[Sequence[Mapping[str, Any]]] = (
        {"first": 2},
        {"first": 2, "second": "many"},
        {"first": 2, "second": 1000},
    )

    def make(self) -> ToolLike:
        return add_numbers(largest=999)

    def test_it_adds(self) -> None:
        [(message, _)] = self.call(self.arguments)
        assert message["content"] == "42"
