"""What a backend raises keeps its type, and a note of the backend's name and method."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from grpo_sdk.backend import Backend
from grpo_sdk.blocking import awaited
from grpo_sdk.errors import GrpoError

T = TypeVar("T")


def called(backend: Backend) -> str:
    """``backend "Parrot"``: by the class of the one that answers, under all wrappers."""
    while isinstance(inner := getattr(backend, "inner", None), Backend):
        backend = inner
    return f'backend "{type(backend).__name__}"'


async def answer_of(backend: Backend, method: str, asked: Awaitable[T], kind: type[T]) -> T:
    """What ``backend`` answers. Raises what it raises, or ``TypeError`` if it answers anything else."""
    try:
        answer: T = await awaited(asked, method)
        if not isinstance(answer, kind):
            raise TypeError(f"it must return a {kind.__name__}, not {type(answer).__name__}")
        return answer
    except GrpoError:
        raise  # its text says all
    except BaseException as problem:
        problem.add_note(f"{called(backend)}: {method}()")
        raise


def failed_call(problem: BaseException) -> tuple[str, BaseException] | None:
    """``backend "Parrot": chat()`` and what came out of it, if that is ``problem`` or its cause.

    A backend that asks an object of the user's names that one: ``agent "Shop": generate_response()``.
    """
    for one in (problem, problem.__cause__):
        for note in getattr(one, "__notes__", ()):
            if one is not None and note.startswith(('backend "', 'agent "')):
                return str(note), one
    return None
