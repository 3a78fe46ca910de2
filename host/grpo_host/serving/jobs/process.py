"""The process that runs a job: started with this interpreter, asked to stop, killed if it does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from grpo_host.serving.settings import DATABASE_URL, ENVIRONMENT

LOG = "job.log"
"""What the process prints, in its run directory."""
ERROR = "error: "
"""Begins a line of the log that is for whoever asked for the job."""
ERROR_CHARACTERS = 2000
LOG_TAIL = 64 * 1024

Command = Callable[[Path], Sequence[str]]


def training_command(plugins: Sequence[str] | None = None) -> Command:
    """The command that trains as ``job.yaml`` of a run directory says."""

    def command(directory: Path) -> Sequence[str]:
        chosen = [] if plugins is None else ["--plugins", ",".join(plugins)]
        parent = ["--parent", str(os.getpid())]
        return [
            *(sys.executable, "-m", "grpo_host.serving.jobs.child"),
            *(*parent, *chosen, str(directory)),
        ]

    return command


class JobProcess:
    """One process, the leader of a session of its own, so that those that it starts end with it."""

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        """Raises ``OSError`` if it cannot be started."""
        self._directory = directory
        log = directory / LOG
        self._said_before = log.stat().st_size if log.is_file() else 0
        with log.open("ab") as output:
            self._process = subprocess.Popen(  # noqa: S603 - nothing of the command is a request's
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """None while it runs; negative: the number of the signal that ended it."""
        if self._process.returncode is None:
            # Left to be collected by ``kill``: until then no other process can have its number.
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is None:
                return None
            return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        return self._process.returncode

    def ask_to_stop(self) -> None:
        """It saves a checkpoint and ends."""
        if self.exit_code() is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it now, with all that it has started, and wait for it."""
        if self._process.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def error(self) -> str | None:
        """What it says it failed with."""
        with (self._directory / LOG).open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._said_before, size - LOG_TAIL))
            lines = log.read().decode("utf-8", "replace").replace("\0", "").splitlines()
        said = [line.removeprefix(ERROR) for line in lines if line.startswith(ERROR)]
        # Where the server keeps its runs is nothing to whoever asked for the job.
        text = "\n".join(said).replace(f"{self._directory}{os.sep}", "")
        return text[:ERROR_CHARACTERS] or None


def _environment() -> dict[str, str]:
    """The server's, without what only the server needs: the job runs plugins on what a user sent."""
    return {name: value for name, value in os.environ.items() if name not in (DATABASE_URL, ENVIRONMENT)}
