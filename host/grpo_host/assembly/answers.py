"""What records, or replays, the answers that a run's parts get."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from grpo_host.assembly.tools import tools_of
from grpo_host.recorded.answers import Answers, Recording, Replay
from grpo_host.utils.validation import say_location
from grpo_sdk.errors import ConfigError
from grpo_sdk.tools import bind

if TYPE_CHECKING:
    from grpo_host.config.resolve import ResolvedConfig


def answers_of(resolved: ResolvedConfig) -> Answers | None:
    """What records or replays answers; None: nothing does."""
    return cast("Answers | None", resolved.kept(("answers",)))


def answer_with(resolved: ResolvedConfig, answers: Recording | Replay) -> None:
    """Let ``answers`` record, before parts are built of ``resolved``; or replay, before any is made.

    Raises ``ConfigError`` if what plays is an app, and ``RunError`` for a tool of which nothing is recorded.
    """
    if resolved.config.agent.runnable is not None:
        raise ConfigError(
            "agent.runnable: an app runs its tools itself, so what they answer can neither be recorded nor "
            "replayed; leave out --record and --replay"
        )
    resolved.once(("answers",), lambda: answers)
    schemas = {}
    for index, use in enumerate(resolved.config.agent.tools):
        location = ("agent", "tools", index)
        name = f"{say_location(location)} {use.name.rpartition('/')[2]}"  # wherever the file is
        if isinstance(answers, Replay):
            tools = answers.tools_of(name)
            resolved.once(location, lambda tools=tools: tools)  # type: ignore[misc]
        else:
            schemas[name] = [bind(tool).schema for tool in tools_of(resolved, index)]
    if isinstance(answers, Recording):
        answers.keep_tools(schemas)
