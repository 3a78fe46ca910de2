"""Describe a plugin and each thing that it offers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from grpo_host.plugins.failures import cause, described, pass_interrupts
from grpo_sdk.errors import GrpoError, PluginError

if TYPE_CHECKING:
    from grpo_sdk.backend import Capability

Kind = Literal["reward", "tool", "environment", "backend", "strategy", "curriculum"]
"""What a plugin can offer."""

BUILT_IN = "grpo-agent-framework"
"""The distribution of the host and of the plugins that come with it."""

LOCAL = "local"
"""In place of a distribution: a program registered the plugin itself."""

KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Plugin:
    """One plugin, working or broken."""

    name: str
    """The name of its entry point."""
    distribution: str
    """The package that brought it; ``local`` if a program registered it itself."""
    version: str = ""
    """The version of the distribution."""
    offers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Kind → the names that it offers."""
    observes: tuple[str, ...] = ()
    """The observer hooks that it implements."""
    error: str | None = None
    """Why it is broken; a broken plugin offers nothing."""
    seconds: float = field(default=0.0, compare=False)
    """What importing it took."""

    @property
    def identifier(self) -> str:
        """``distribution/entry point``: unlike the name alone, unique."""
        return f"{self.distribution}/{self.name}"

    @property
    def built_in(self) -> bool:
        """Whether it came with the host."""
        return canonical(self.distribution) == BUILT_IN

    @property
    def is_file(self) -> bool:
        """Whether it is a file that agent.yaml names, whose path is its ``distribution``."""
        return self.distribution.endswith(f"/{self.name}")

    def __str__(self) -> str:
        of = f"{self.distribution} {self.version}".strip()
        return of if self.is_file else f'{of} (entry point "{self.name}")'

    def is_called(self, name: str) -> bool:
        """Whether ``name`` is its entry point, its distribution, or ``distribution/entry point``."""
        distribution, slash, entry_point = name.partition("/")
        if slash:
            return canonical(distribution) == canonical(self.distribution) and (entry_point == self.name)
        return name == self.name or canonical(name) == canonical(self.distribution)


@dataclass(frozen=True, slots=True)
class Offer:
    """One thing that a plugin offers under a name of agent.yaml."""

    name: str
    kind: Kind
    factory: Callable[..., Any]
    plugin: Plugin

    @property
    def identifier(self) -> str:
        """The name that no other plugin can take: ``distribution/entry point:name``."""
        return f"{self.plugin.identifier}:{self.name}"

    @property
    def capabilities(self) -> frozenset[Capability]:
        """What a backend can do; of anything else, nothing."""
        return self.factory.capabilities if self.kind == "backend" else frozenset()  # type: ignore[attr-defined]

    def __str__(self) -> str:
        return f'{self.kind} "{self.name}" of {self.plugin}'

    def make(self, *args: Any, **options: Any) -> Any:
        """Call the factory. Raises ``PluginError`` naming the plugin, whatever the factory raised."""
        try:
            return self.factory(*args, **options)
        except GrpoError:
            raise
        except BaseException as error:
            pass_interrupts(error)
            said = cause(error) if self.plugin.built_in else described(error)
            raise PluginError(f"{self} could not be made: {said}") from error


def canonical(distribution: str) -> str:
    """A distribution's name as package indexes compare it: ``My_Plugin`` is ``my-plugin``."""
    return re.sub(r"[-_.]+", "-", distribution).lower()
