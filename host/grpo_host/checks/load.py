"""Loads an agent.yaml that is to be used: what is wrong with it is an error."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grpo_host.config.overrides import Override
    from grpo_host.config.resolve import ResolvedConfig
    from grpo_host.plugins import Registry


def load_checked(
    path: Path,
    changes: Sequence[str | Override],
    registry: Registry,
    purpose: Any,
    *,
    replay: str | None = None,
) -> ResolvedConfig:
    """agent.yaml with ``changes``, checked for ``purpose``, and what the check has found and made.

    ``replay`` names a run whose recorded answers stand for its tools. Whoever has the result closes that
    (``closing``). Raises ``ConfigError``, or ``RunError`` if nothing is recorded there.
    """
    from grpo_host.assembly.answers import answer_with
    from grpo_host.checks.check import check
    from grpo_host.config.load import load_config
    from grpo_host.config.resolve import resolve
    from grpo_host.runs.recording import replay_of

    resolved = resolve(load_config(path, changes, registry), registry)
    with ExitStack() as stack:
        stack.enter_context(resolved.closing)
        if replay is not None:
            answer_with(resolved, replay_of(resolved.config, replay, purpose))
        check(resolved, purpose=purpose).raise_for_problems()
        stack.pop_all()
    return resolved
