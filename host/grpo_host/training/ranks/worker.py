"""``python -m grpo_host.training.ranks.worker RUN SIZE [CONFIGURATION]``: train a pickled run in ranks.

The run is one of Python objects. Started alone, it asks torch elastic for ``SIZE`` processes of the same
command, which are the ranks; they share the model as accelerate's ``CONFIGURATION`` says.
"""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from grpo_host.backends.event_loop import LoopThread
from grpo_host.training.interrupt import Interrupt, StopTraining
from grpo_host.training.ranks.process_group import (
    is_main_process,
    join_ranks,
    launch,
    launched_ranks,
    leave_ranks,
    python_module,
)
from grpo_host.utils.atomic import write_text
from grpo_sdk.errors import GrpoError


def main(payload: Path, size: int, *accelerate: str) -> int:
    """The exit code. The result is left beside ``payload`` as JSON: where the run is, or what went wrong."""
    try:
        if launched_ranks() == 1:
            again = python_module("grpo_host.training.ranks.worker", str(payload), str(size), *accelerate)
            return launch(again, size)
        return _train(payload, size, *accelerate)
    except GrpoError as problem:
        if is_main_process():
            _tell(payload, error=str(problem))
        return 2


def _train(payload: Path, size: int, *accelerate: str) -> int:
    import dill  # type: ignore[import-untyped]

    with ExitStack() as stack:
        ranks = join_ranks(size, *accelerate)
        stack.callback(leave_ranks, ranks)
        run = dill.loads(payload.read_bytes())  # noqa: S301 -- our parent wrote it
        run = replace(run, agent=replace(run.agent, backend=run.agent.backend.make()))
        loop = LoopThread()
        stack.callback(loop.close)
        interrupt = stack.enter_context(Interrupt(ranks).listening(print if ranks.main else _silent))
        try:
            finished = run.execute(loop, interrupt, ranks, owned=True)
        except StopTraining:
            return interrupt.exit_code
        if ranks.main:
            _tell(payload, run=str(finished.directory), result=str(finished.result))
        return 0


def _silent(_: str) -> None:
    return


def _tell(payload: Path, **values: str) -> None:
    write_text(payload.with_suffix(".json"), json.dumps(values))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]))
