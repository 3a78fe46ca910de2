"""The host's end of a bridged library: starts its process, and asks it, with a deadline on every wait."""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from grpo_sdk.errors import ConfigError

HERE = Path(__file__).parent
START_SECONDS = 120.0
"""How long a library may take to be loaded."""
ASK_SECONDS = 60.0
"""How long it may take to answer, if the caller does not say."""
TAIL = 1500
"""So much of what the process printed is shown in errors, in characters."""


class BridgeError(RuntimeError):
    """The library's process ended, took too long, or answered with an error."""


@dataclass(frozen=True, slots=True)
class Package:
    """A library that is bridged."""

    name: str
    """As pip knows it."""
    module: str
    """As Python imports it."""
    install: str
    """What pip is told to get an environment that has it; of several commands, the first begins so."""
    side: str
    """The name of the file in ``sides``."""


class Library:
    """The process of one library with one set of options, started when it is asked, and again if it dies."""

    def __init__(self, package: Package, python: str, options: str) -> None:
        self.package = package
        self._python = python
        self._options = options
        self._lock = threading.Lock()
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._sessions: set[Session] = set()
        atexit.register(self.close)

    def open(self) -> Session:
        """A process for one episode. Raises ``BridgeError``, and ``ConfigError`` if it cannot start."""
        with self._lock:
            address = self._started()
        session = Session(self, address)
        self._sessions.add(session)
        return session

    def ask(self, method: str, **arguments: Any) -> Any:
        """Ask for what is no episode's."""
        session = self.open()
        try:
            return session.ask(method, **arguments)
        finally:
            session.close()

    def closed(self, session: Session) -> None:
        """Forget ``session``, which is closed."""
        self._sessions.discard(session)

    def printed(self) -> str:
        """The end of what the process printed."""
        if self._directory is None:
            return ""
        return Path(self._directory.name, "printed").read_text("utf-8", "replace")[-TAIL:].strip()

    def close(self) -> None:
        """End the process and all its episodes."""
        for session in list(self._sessions):
            session.close()
        with self._lock:
            process, self._process = self._process, None
            if process is not None:
                if process.stdin is not None:
                    process.stdin.close()
                try:
                    process.wait(2.0)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            if self._directory is not None:
                self._directory.cleanup()
                self._directory = None

    def _started(self) -> Path:
        if self._process is not None and self._process.poll() is None and self._directory is not None:
            return Path(self._directory.name, "socket")
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="grpo-bridge-")
        directory = Path(self._directory.name)
        address = directory / "socket"
        address.unlink(missing_ok=True)
        side = HERE / "sides" / f"{self.package.side}.py"
        with (directory / "printed").open("wb") as printed:
            self._process = process = subprocess.Popen(  # noqa: S603 - agent.yaml names the interpreter
                [self._python, str(HERE / "worker.py"), str(side), str(address), self._options],
                stdin=subprocess.PIPE,
                stdout=printed,
                stderr=printed,
                cwd=directory,
                start_new_session=True,  # so that it can end all that it forked
            )
        ends = time.monotonic() + START_SECONDS
        while not address.exists():
            if process.poll() is not None:
                raise ConfigError(self._no_start(f"ended with code {process.returncode}"))
            if time.monotonic() > ends:
                process.kill()
                raise ConfigError(self._no_start(f"was not ready after {START_SECONDS:g} s"))
            time.sleep(0.01)
        return address

    def _no_start(self, what: str) -> str:
        printed = self.printed()
        last = printed.splitlines()[-1] if printed else "it printed nothing"
        said = f"{self.package.name} in {self._python} {what}: {last}."
        if f"No module named '{self.package.module}" in printed:
            return (
                f"{said} Install it there, or name with the option venv a virtual environment that has it: "
                f"python -m venv DIRECTORY && DIRECTORY/bin/pip install {self.package.install}"
            )
        return f"{said} It printed:\n{printed}"


@dataclass(slots=True, eq=False)
class Session:
    """One episode in the library's process. For one caller at a time; others wait."""

    library: Library
    address: Path
    _socket: socket.socket = field(init=False)
    _file: Any = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(ASK_SECONDS)
        try:
            self._socket.connect(str(self.address))
        except OSError as problem:
            self._socket.close()
            raise BridgeError(
                f"{self.library.package.name}: its process does not answer: {problem}"
            ) from problem
        self._file = self._socket.makefile("rwb")

    def ask(self, method: str, *, seconds: float = ASK_SECONDS, **arguments: Any) -> Any:
        """What the side's ``method`` returns. Raises ``BridgeError``."""
        request = json.dumps({"method": method, "arguments": arguments, "seconds": seconds}).encode()
        name = self.library.package.name
        if not self._lock.acquire(timeout=seconds):
            raise BridgeError(f"{name}: {method}() waited more than {seconds:g} s for another call")
        started = time.monotonic()
        try:
            self._socket.settimeout(seconds + 5.0)  # its process ends itself before
            self._file.write(request + b"\n")
            self._file.flush()
            line = self._file.readline()
        except (OSError, ValueError):
            line = b""
        finally:
            self._lock.release()
        if not line:
            took = time.monotonic() - started
            why = f"took more than {seconds:g} s" if took >= seconds else "ended its process"
            printed = self.library.printed()
            said = f": {printed}" if printed else ""
            raise BridgeError(f"{name}: {method}() {why}, and this episode with it{said}")
        answer = json.loads(line)
        if "error" in answer:
            raise BridgeError(f"{name}: {method}(): {answer['error']}")
        return answer["result"]

    def close(self) -> None:
        """End the episode's process. Safe to call twice."""
        self.library.closed(self)
        self._socket.close()
        with suppress(OSError):  # what was written to a process that has ended
            self._file.close()


def interpreter(venv: Path | None) -> str:
    """The Python of ``venv``, or this one. Raises ``ConfigError`` if there is none."""
    if venv is None:
        return sys.executable
    python = venv / "bin" / "python"
    if not os.access(python, os.X_OK):
        raise ConfigError(f"venv: {venv} is no virtual environment: it has no bin/python")
    return str(python)


@cache
def _library(package: Package, python: str, options: str) -> Library:
    return Library(package, python, options)


def library(package: Package, venv: Path | None, options: dict[str, Any]) -> Library:
    """The one process of ``package`` in ``venv`` with ``options``, for all environments of this process."""
    return _library(package, interpreter(venv), json.dumps(options, sort_keys=True))
