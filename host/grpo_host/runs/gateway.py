"""``grpo-host gateway``: let an app in another process call the policy, and see what would be trained."""

from __future__ import annotations

import signal
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

from grpo_host.agents.model_calls import ModelCalls
from grpo_host.gateway.server import Gateway
from grpo_host.runs.assembled import assemble
from grpo_host.runs.playing import cannot_write, start_agent
from grpo_host.utils.progress import Reporter, nowhere
from grpo_host.utils.stdout import plugins_print_to_stderr
from grpo_sdk.errors import RunError
from grpo_sdk.trajectory import StopReason, Task, Trajectory

if TYPE_CHECKING:
    from grpo_host.agents.agent import Agent
    from grpo_host.config.resolve import ResolvedConfig


def run_gateway(loaded: ResolvedConfig, *, keys: int, out: Path) -> int:
    """Answer at an address and with ``keys`` keys, which are printed, until Ctrl-C or SIGTERM.

    What each key was asked is then a trajectory in the new file ``out``, with the tokens that training would
    see and no rewards. Raises ``GrpoError``.
    """
    from grpo_host.langchain.app_agent import AppAgent
    from grpo_host.langchain.command import answering
    from grpo_host.langchain.episode_source import EpisodeSource

    if out.is_file() and out.stat().st_size:
        raise RunError(f"{out} holds something already; name another --out")
    reporter = Reporter(sys.stderr or nowhere())
    with ExitStack() as stack:
        stack.enter_context(loaded.closing)
        stack.enter_context(plugins_print_to_stderr())
        assembly = assemble(loaded, progress=reporter.line)
        played, loop = start_agent(stack, assembly, reporter)
        agent = played.agent if isinstance(played, AppAgent) else cast("Agent", played)
        gateway = Gateway()
        stack.callback(gateway.close)
        answer = answering(EpisodeSource(agent.backend))

        async def opened() -> ModelCalls:
            return ModelCalls(agent)

        episodes: list[ModelCalls] = []
        reporter.line(f"export OPENAI_BASE_URL={gateway.url}")
        for _ in range(keys):
            calls = loop.run(opened())
            with calls.current():  # the key's answers see it
                reporter.line(f"export OPENAI_API_KEY={stack.enter_context(gateway.key(answer))}")
            episodes.append(calls)
        reporter.line("Start the app with these. Ctrl-C ends, and writes what was asked to " + str(out))
        began = time.time()
        _wait()
        try:
            with out.open("wb") as file:
                for number, calls in enumerate(episodes):
                    if calls.turns:
                        file.write(_trajectory(calls, number, began).to_json() + b"\n")
        except OSError as problem:
            raise cannot_write(out, problem) from problem
        for number, calls in enumerate(episodes, 1):
            reporter.line(_summary(number, calls))
    return 0


def _wait() -> None:
    """Until Ctrl-C or SIGTERM."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
    finally:
        signal.signal(signal.SIGTERM, before)


def _trajectory(calls: ModelCalls, number: int, began: float) -> Trajectory:
    return Trajectory(
        id=f"gateway/{number}",
        environment="",
        task=Task(f"gateway-{number}", {}),
        status="completed",
        stop_reason=StopReason.DONE,
        messages=calls.messages,
        turns=calls.turns,
        ledger=calls.ledger(spans=True),
        model=calls.agent.backend.model.name,
        started=began,
        seconds=time.time() - began,
    )


def _summary(number: int, calls: ModelCalls) -> str:
    ledger = calls.ledger()
    if not calls.turns:
        return f"key {number}: no call"
    if ledger is None:
        return f"key {number}: {len(calls.turns)} calls; the backend tells no tokens, so it cannot be trained"
    roles = ", ".join(sorted({f'"{item.role}"' for item in ledger.sequences}))
    return (
        f"key {number}: {len(calls.turns)} calls in {len(ledger.sequences)} contexts, "
        f"{ledger.sampled} sampled tokens; roles: {roles}"
    )
