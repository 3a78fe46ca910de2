"""Errors that a user can act on. The host prints them on one line and exits 2.

GrpoError
├── ConfigError        agent.yaml or a command line says something that cannot be
├── PluginError        a plugin is missing, broken, ambiguous or of another hook API
├── CapabilityError    a backend was asked for what it cannot do
├── MissingExtraError  an optional dependency is not installed
├── ModelError         a model is not available or does not load
├── ProviderError      a model's server cannot be reached, or refuses a request
└── RunError           a run cannot go on: directory in use, disk full, nothing to resume
    └── BusyError      not now: requests are under way
"""

from __future__ import annotations


class GrpoError(Exception):
    """An expected failure: where, what, and the next step, in one line."""


class ConfigError(GrpoError):
    """A setting is missing, unknown, or of a wrong kind."""


class PluginError(GrpoError):
    """A plugin is missing, broken, ambiguous, or written for another hook API."""


class CapabilityError(GrpoError):
    """A backend was asked for what it cannot do."""


class MissingExtraError(GrpoError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        super().__init__(
            f"{what} needs the package {package}, which is not installed. "
            f"Run: pip install 'grpo-agent-framework[{extra}]'"
        )


class ModelError(GrpoError):
    """A model is not available or does not load."""


class ProviderError(GrpoError):
    """A model's server cannot be reached, refuses a request, or answers nonsense.

    ``status`` is what it answered, if it answered. The text is for whoever runs this process, not for
    callers of a server: it names addresses behind the server, and quotes what they answered.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ContextOverflowError(GrpoError):
    """A prompt leaves no space for an answer in the model's context."""


class RunError(GrpoError):
    """A run cannot start or continue."""


class BusyError(RunError):
    """New weights would mix two policies in the tokens of requests that are under way."""


def did_you_mean(name: str, known: list[str]) -> str:
    """`` Did you mean "x"?`` for the nearest of ``known``, or an empty string."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1, cutoff=0.6)
    return f' Did you mean "{near[0]}"?' if near else ""
