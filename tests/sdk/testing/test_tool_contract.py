"""The tool contract of bundles finds what is broken in them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import pytest

from grpo_sdk import ToolBundle
from grpo_sdk.testing import ToolContract

SHARED: list[str] = []


def write_shared(text: str) -> int:
    """Write a note.

    Args:
        text: The note.
    """
    SHARED.append(text)
    return len(SHARED)


@asynccontextmanager
async def notebook(closes: bool = True) -> Any:
    """Notes that are an episode's own."""
    notes: list[str] = []

    def write_note(text: str) -> int:
        """Write a note.

        Args:
            text: The note.
        """
        notes.append(text)
        return len(notes)

    def read_notes() -> list[str]:
        """Read all notes."""
        return notes

    yield [read_notes, write_note]
    if not closes:
        raise OSError("the file is gone")


class TestNotebook(ToolContract):
    tool: ClassVar = "write_note"
    arguments: ClassVar = {"text": "a"}
    invalid_arguments: ClassVar = ({"text": 1}, {})

    def make(self) -> ToolBundle:
        return ToolBundle(notebook, per="episode")


class TestOfARun(TestNotebook):
    def make(self) -> ToolBundle:
        return ToolBundle(notebook)


class TestAList(ToolContract):
    arguments: ClassVar = {"text": "a"}

    def make(self) -> Any:
        return [write_shared]


def made(bundle: ToolBundle, tool: str = "write_note") -> ToolContract:
    contract = TestNotebook()
    contract.make = lambda: bundle  # type: ignore[method-assign]
    type(contract).tool = tool
    return contract


@pytest.fixture(autouse=True)
def _tool_is_put_back() -> Any:
    yield
    TestNotebook.tool = "write_note"


def test_a_coroutine_that_blocks_the_event_loop_is_found() -> None:
    async def look(text: str) -> str:
        """Look."""
        time.sleep(0.04)  # noqa: ASYNC251
        return text

    class Contract(ToolContract):
        blocking_seconds = 0.02
        arguments: ClassVar = {"text": "a"}

        def make(self) -> Any:
            return look

    with pytest.raises(
        AssertionError, match=r"(?s)a call blocked the event loop for 0\..*Fix: make it a plain"
    ):
        Contract().test_the_event_loop_is_not_blocked()


@asynccontextmanager
async def desk() -> Any:
    """A tool that asks until it is answered, whatever it was told meanwhile."""

    async def ask(text: str) -> str:
        """Ask.

        Args:
            text: What.
        """
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(5)

    yield [ask]


@pytest.mark.parametrize("per", ["run", "episode"])
def test_a_tool_that_no_time_limit_ends_is_found(monkeypatch: pytest.MonkeyPatch, per: Any) -> None:
    monkeypatch.setattr("grpo_sdk.deadline.GRACE_SECONDS", 0.05)
    with pytest.raises(AssertionError, match=r"(?s)a call catches its cancellation.*Fix: let ``asyncio"):
        made(ToolBundle(desk, per=per), "ask").test_a_time_limit_ends_it()


def test_a_tool_that_two_episodes_share_is_found() -> None:
    shared = made(ToolBundle(lambda: [write_shared], per="episode"), "write_shared")
    with pytest.raises(AssertionError, match=r"(?s)gave the same tool.*Fix: make what an episode keeps"):
        shared.test_two_episodes_at_once_have_their_own()


def test_a_bundle_that_does_not_close_is_found() -> None:
    broken = made(ToolBundle(lambda: notebook(closes=False), per="episode"))
    with pytest.raises(AssertionError, match=r"(?s)closing failed: OSError: the file is gone.*Fix: what"):
        broken.test_closing_works()


def test_a_tool_that_the_bundle_does_not_have_is_said() -> None:
    with pytest.raises(AssertionError, match="tool names write; there are read_notes, write_note"):
        made(ToolBundle(notebook), "write").test_a_valid_call_works()
    with pytest.raises(AssertionError, match="tool names write; there are read_notes, write_note"):
        made(ToolBundle(notebook), "write").schema()


def test_a_bundle_without_a_tool_is_said() -> None:
    with pytest.raises(AssertionError, match="make returns no tool"):
        made(ToolBundle(lambda: []), "").test_a_valid_call_works()
