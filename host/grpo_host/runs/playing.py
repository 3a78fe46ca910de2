"""What the commands that play episodes without training share."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from grpo_host.assembly.runtime import Assembly
from grpo_host.backends.event_loop import LoopThread
from grpo_host.rollouts.episode import EpisodeAgent
from grpo_host.utils.progress import Reporter
from grpo_sdk.errors import RunError


def start_agent(stack: ExitStack, assembly: Assembly, reporter: Reporter) -> tuple[EpisodeAgent, LoopThread]:
    """The started agent and the loop that it lives in; both end with ``stack``."""
    loop = LoopThread()
    stack.callback(loop.close)
    stack.callback(lambda: loop.run(assembly.close()))
    with reporter.phase("loading the model"):
        return loop.run(assembly.start()), loop


def cannot_write(path: Path, problem: OSError) -> RunError:
    """What to say if ``path``, which ``--out`` names, cannot be written."""
    return RunError(f"cannot write {path}: {problem.strerror or problem}; make room, or name another --out")
