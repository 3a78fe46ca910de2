"""The tool ``python``: runs code that a model wrote, in a process with limits."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Literal

from grpo_sdk.bundles import ToolBundle
from grpo_sdk.errors import ConfigError
from grpo_sdk.tools import ToolCallError

CHILD = Path(__file__).with_name("python_child.py")
OPEN_FILES = 64


def python_tool(
    *,
    seconds: float = 5.0,
    cpu_seconds: int = 5,
    memory_mb: int = 1024,
    file_mb: int = 16,
    output_chars: int = 16_000,
    network: bool = False,
    per: Literal["call", "episode"] = "call",
) -> Callable[[str], Awaitable[str]] | ToolBundle:
    """Python code that the model writes, run in a process of its own.

    ``per``: a process for each call, which keeps nothing; or one for each episode, whose programs use what
    the ones before defined, one after the other. A process that is ended takes what it knew with it.

    The process ends after ``seconds``, ``cpu_seconds`` of CPU time (of an episode: of all its programs) or
    ``output_chars`` of output, has at most ``memory_mb`` of memory and files of at most ``file_mb``, an empty
    directory that is deleted afterwards, and none of this process's environment variables. Without
    ``network`` it is in namespaces of its own: it reaches no network, and sees no other process. It imports
    what is installed beside grpo-host.

    It is no sandbox: the code can read and write all files that this user can, and use what they give it (a
    key, a socket of Docker's). For code that you do not trust, run grpo-host in a container. Linux only.
    """
    if sys.platform != "linux":
        raise ConfigError("the tool python needs Linux, whose limits it stands on")
    if not network:
        _require_namespaces()
    megabyte = 2**20
    limits = {
        "RLIMIT_AS": memory_mb * megabyte,
        "RLIMIT_CPU": cpu_seconds,
        "RLIMIT_FSIZE": file_mb * megabyte,
        "RLIMIT_NOFILE": OPEN_FILES,
        "RLIMIT_CORE": 0,
    }
    asked = json.dumps({"network": network, "limits": limits, "session": per == "episode"})
    if per == "episode":
        return ToolBundle(partial(_session, asked, seconds, cpu_seconds, output_chars), per="episode")

    async def python(code: str) -> str:
        """Run Python code, and get what it prints or the value of its last line. No call keeps anything.

        Args:
            code: The program.
        """
        with tempfile.TemporaryDirectory(prefix="grpo-python-", ignore_cleanup_errors=True) as directory:
            process = await _started(asked, directory)
            try:
                async with asyncio.timeout(seconds):
                    output, cut = await _talk(process, code, output_chars)
            except TimeoutError:
                raise ToolCallError(f"the program took more than {seconds:g} s") from None
            finally:
                await _ended(process)
        if cut:
            raise ToolCallError(
                f"{output}\n[the program was ended: it printed more than {output_chars} characters]"
            )
        return _answer(output, process.returncode or 0, cpu_seconds)

    return python


@cache
def _require_namespaces() -> None:
    asked = json.dumps({"network": False, "limits": {}, "session": False})
    tried = subprocess.run([sys.executable, "-I", str(CHILD), asked], input=b"", timeout=60)  # noqa: S603
    if tried.returncode == -signal.SIGSYS:
        raise ConfigError(
            "the tool python: this machine gives no namespaces to unprivileged users, so the code would "
            "reach the network. Allow them (kernel.unprivileged_userns_clone, or the container's profile), "
            "or set network: true"
        )


async def _started(asked: str, directory: str) -> asyncio.subprocess.Process:
    environment = {
        "HOME": directory,
        "TMPDIR": directory,
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        # Threads that reserve memory count as memory that is used.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-B", "-X", "utf8", str(CHILD), asked,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=directory,
        env=environment,
        start_new_session=True,
    )  # fmt: skip


@asynccontextmanager
async def _session(
    asked: str, seconds: float, cpu_seconds: int, output_chars: int
) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """The tool of one episode, whose process is started by its first program."""
    process: asyncio.subprocess.Process | None = None
    one_after_the_other = asyncio.Lock()
    with tempfile.TemporaryDirectory(prefix="grpo-python-", ignore_cleanup_errors=True) as directory:

        async def python(code: str) -> str:
            """Run Python code, and get what it prints or the value of its last line. Names are kept.

            Args:
                code: The program.
            """
            nonlocal process
            async with one_after_the_other:
                if process is None:
                    process = await _started(asked, directory)
                try:
                    async with asyncio.timeout(seconds):
                        output, status = await _run_next(process, code, output_chars)
                except TimeoutError:
                    output, status = "", "late"
                except asyncio.CancelledError:  # its program still runs: it can take no other
                    ended, process = process, None
                    await _ended(ended)
                    raise
                if isinstance(status, int):
                    return _answer(output, status, cpu_seconds)
                ended, process = process, None
                await _ended(ended)
            lost = "what earlier programs defined is lost"
            if status == "late":
                raise ToolCallError(f"the program took more than {seconds:g} s, and was ended: {lost}")
            if status == "long":
                why = f"it printed more than {output_chars} characters"
                raise ToolCallError(f"{output}\n[the program was ended: {why}; {lost}]")
            try:
                _answer(output, ended.returncode or 0, cpu_seconds)
            except ToolCallError as problem:
                raise ToolCallError(f"{problem}\n[{lost}]") from None
            raise ToolCallError(f"{output.rstrip()}\n[the program ended its process; {lost}]".lstrip())

        try:
            yield python
        finally:
            if process is not None:
                await _ended(process)


async def _run_next(
    process: asyncio.subprocess.Process, code: str, most: int
) -> tuple[str, int | Literal["late", "long", "gone"]]:
    """What one program of a session prints, and its exit code, or why there is none."""
    stdin, stdout = process.stdin, process.stdout
    if stdin is None or stdout is None:
        raise RuntimeError("the process has no pipes")
    end = secrets.token_hex(16)
    with suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(json.dumps([end, code]).encode() + b"\n")
        await stdin.drain()
    heard = b""
    while piece := await stdout.read(65_536):
        heard += piece
        text = heard.decode("utf-8", "replace")
        output, ended, status = text.partition(f"\n{end} ")
        if len(output) > most:
            return output[:most], "long"
        if ended and status.endswith("\n"):
            return output, int(status)
    await process.wait()
    return heard.decode("utf-8", "replace"), "gone"


async def _talk(process: asyncio.subprocess.Process, code: str, most: int) -> tuple[str, bool]:
    """What the program prints, at most ``most`` characters, and whether it was more."""
    stdin, stdout = process.stdin, process.stdout
    if stdin is None or stdout is None:
        raise RuntimeError("the process has no pipes")
    with suppress(BrokenPipeError, ConnectionResetError):
        stdin.write(code.encode("utf-8", "replace"))
        await stdin.drain()
        stdin.close()
    heard = b""
    while piece := await stdout.read(65_536):
        heard += piece
        if len(text := heard.decode("utf-8", "replace")) > most:
            return text[:most], True
    await process.wait()
    return heard.decode("utf-8", "replace"), False


async def _ended(process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _answer(output: str, code: int, cpu_seconds: int) -> str:
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL, 128 + signal.SIGXCPU):
        why = f"it used up its {cpu_seconds} s of CPU time, or the machine's memory"
        raise ToolCallError(f"{output}\n[the program was killed: {why}]".lstrip())
    if code:
        raise ToolCallError(f"{output.rstrip()}\n[exit code {code}]".lstrip())
    return output.rstrip("\n") or "[nothing was printed]"
