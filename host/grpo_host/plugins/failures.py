"""Which plugin failed, in which method, on which line."""

from __future__ import annotations

import asyncio
import logging
import sysconfig
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import grpo_sdk
from grpo_host.agents.backend_failure import failed_call
from grpo_sdk.messages import traceback_text, whole_text

logger = logging.getLogger("grpo_host.plugins")

_OURS = (f"{Path(grpo_sdk.__file__).parent}/", f"{Path(__file__).parent.parent}/")
_INSTALLED = tuple(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "purelib", "platlib"))
_PYTHON = f"{sysconfig.get_path('stdlib')}/"
_MACHINERY = (
    *(f"{_PYTHON}{name}" for name in ("asyncio/", "importlib/", "contextlib.py")),
    *(f"{path}importlib_metadata/" for path in _INSTALLED),  # it takes importlib's place where it is imported
    "<frozen ",
    "<string>",
)
"""What stands between the host and a plugin's coroutine, and what has no file."""
_logged: set[str] = set()


class PluginFailure(Exception):  # noqa: N818 - its text says what failed
    """A method of a plugin raised, or gave what it must not; the text says whose, which and where."""


class blamed:  # noqa: N801 - a context, entered for each step: a generator's would cost thrice as much
    """``with blamed(who, method):`` turns what a call of it raises into a ``PluginFailure`` of ``who``.

    A Rust extension's panic and ``SystemExit`` are no ``Exception``, and must not end the process either.
    """

    __slots__ = ("_method", "_who")

    def __init__(self, who: str, method: str) -> None:
        self._who, self._method = who, method

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        if problem is None or _interrupts(problem):
            return
        place = f"{self._who}: {self._method}()"
        text = f"{place}: {described(problem)}"
        log_once(place, text, problem)
        raise PluginFailure(text) from problem


def pass_interrupts(problem: BaseException) -> None:
    """Raise ``problem`` again if it is not the plugin's: a cancellation, or Ctrl-C.

    Ctrl-C comes to the main thread alone: a ``KeyboardInterrupt`` in another one is the plugin's own. So is
    a cancellation, if nobody has cancelled this task.
    """
    if _interrupts(problem):
        try:
            raise problem
        finally:
            del problem  # which holds this frame from now on


def _interrupts(problem: BaseException) -> bool:
    if isinstance(problem, KeyboardInterrupt):
        return threading.current_thread() is threading.main_thread()
    if isinstance(problem, asyncio.CancelledError):
        return not _nobody_cancelled()
    return isinstance(problem, GeneratorExit)


def _nobody_cancelled() -> bool:
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and not task.cancelling()


def cause(problem: BaseException) -> str:
    """``ImportError: no module …``: an exception on one line."""
    text = " ".join(str(problem).split())
    if not text and isinstance(problem, asyncio.CancelledError):
        text = "it awaited something that was cancelled"
    return f"{type(problem).__name__}: {text}" if text else type(problem).__name__


def described(problem: BaseException, most: int = 1800) -> str:
    """``KeyError: 'n' (my_package/plugin.py:215)``: what was raised, and the plugin's line that led to it.

    What came out of a backend begins with its name. A text of more than ``most`` characters is cut.
    """
    backend, problem = failed_call(problem) or ("", problem)
    place = plugin_line(problem)
    named = f"{backend}: {cause(problem)}" if backend else cause(problem)
    return f"{named[:most]}{f' ({place})' if place else ''}"


def plugin_line(problem: BaseException) -> str:
    """The last line that was reached of the plugin's own code; empty if none was."""
    return plugin_frame([(f.filename, f.lineno or 0) for f in traceback.extract_tb(problem.__traceback__)])


def plugin_frame(calls: Sequence[tuple[str, int]]) -> str:
    """Of ``calls`` (files and lines, the innermost last), the last one in a plugin's own code; or nothing.

    That is code which is not installed; or else the package that the host called.
    """
    theirs = [call for call in calls if not call[0].startswith((*_OURS, *_MACHINERY))]
    if not theirs:
        return ""
    package = Path(theirs[0][0]).parent
    called = [call for call in theirs if Path(call[0]).is_relative_to(package)]
    file, line = ([call for call in theirs if not call[0].startswith(_INSTALLED)] or called)[-1]
    return f"{Path(file).parent.name}/{Path(file).name}:{line}"


def log_once(where: str, text: str, problem: BaseException) -> None:
    """Log the traceback of ``problem``: of the first of its kind at a place; of all with ``--verbose``."""
    kind = f"{where} {type(problem).__name__} {plugin_line(problem)}"
    if kind not in _logged or logger.isEnabledFor(logging.DEBUG):
        _logged.add(kind)
        logger.warning("%s\n%s", whole_text(text), traceback_text(problem))
