"""Contract tests of a plugin as a whole: inherit, name its distribution, run pytest.

from grpo_sdk.testing import PluginContract

class TestPlugin(PluginContract):
    distribution = "acme-rewards"
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution
from typing import Any, ClassVar

from grpo_sdk.hooks import ENTRY_POINT_GROUP
from grpo_sdk.strategy import Strategy
from grpo_sdk.testing.checks import require
from grpo_sdk.testing.contract import Contract
from grpo_sdk.testing.importing import Imported, imported
from grpo_sdk.testing.reward_samples import samples

HEAVY = frozenset(
    {
        *("accelerate", "datasets", "jax", "litellm", "matplotlib", "pandas", "peft", "scipy", "sklearn"),
        *("spacy", "tensorflow", "torch", "transformers", "trl", "vllm"),
    }
)

HostMaker = Callable[[str], Any]
"""The fixture ``grpo_plugin_host``."""


class PluginContract(Contract):
    """What the host relies on in every distribution with plugins."""

    distribution: ClassVar[str] = ""
    """The name under which pip knows the package."""
    import_seconds: ClassVar[float] = 1.0
    """What importing it may cost, in seconds of a processor."""
    heavy: ClassVar[frozenset[str]] = HEAVY
    """Packages that no process of the host should load at its start."""

    _imported: ClassVar[Imported | None] = None

    def entry_points(self) -> list[EntryPoint]:
        """Those of the group ``grpo``."""
        require(self.distribution, f"{type(self).__name__} needs distribution = the name that pip knows")
        try:
            found = distribution(self.distribution)
        except PackageNotFoundError:
            raise AssertionError(f"{self.distribution} is not installed: pip install -e .") from None
        return list(found.entry_points.select(group=ENTRY_POINT_GROUP))

    @property
    def imported(self) -> Imported:
        """What happened when a fresh process imported it and called its registration hooks."""
        cls = type(self)
        if cls._imported is None:
            cls._imported = imported([entry_point.value for entry_point in self.entry_points()])
        return cls._imported

    def test_its_entry_points_lead_to_plugins(self) -> None:
        """Fix: mend ``[project.entry-points.grpo]`` in pyproject.toml, and install the package again."""
        found = self.entry_points()
        require(found, f"{self.distribution} has no entry point of the group {ENTRY_POINT_GROUP}")
        for entry_point in found:
            try:
                entry_point.load()
            except BaseException as problem:
                raise AssertionError(
                    f'the entry point "{entry_point.name}" leads to {entry_point.value}, which cannot be '
                    f"loaded: {type(problem).__name__}: {problem}"
                ) from problem

    def test_importing_it_is_light(self) -> None:
        """Fix: import heavy packages within the factory or the method: every process of the host imports
        every plugin, also those that the agent does not use."""
        found = sorted(self.heavy & self.imported.packages)
        require(not found, f"importing {self.distribution} loads {', '.join(found)}")

    def test_importing_it_is_fast(self) -> None:
        """Fix: import what is slow within the factory, and compute nothing at import."""
        seconds = self.imported.seconds
        if seconds > self.import_seconds:
            slowest = ", ".join(self.imported.slowest())
            require(False, f"importing {self.distribution} takes {seconds:.1f} s; slowest: {slowest}")

    def test_importing_it_is_silent(self) -> None:
        """Fix: print nothing at import, and leave the root logger alone: commands print JSON."""
        require(not self.imported.printed, f"importing it prints {self.imported.printed!r:.200}")
        require(not self.imported.handlers, f"importing it gives the root logger {self.imported.handlers}")

    def test_importing_it_seeds_no_global_generator(self) -> None:
        """Fix: make a ``random.Random(seed)`` of your own where it is needed."""
        require(not self.imported.seeded, "importing it seeds or draws from the global generator of random")

    def test_the_host_takes_it(self, grpo_plugin_host: HostMaker) -> None:
        """Fix: as the message says; ``grpo-host plugins`` says it too."""
        host = grpo_plugin_host(self.distribution)
        for plugin in host.plugins:
            require(plugin.offers or plugin.observes, f"{plugin} offers nothing and observes nothing")

    def test_everything_that_it_offers_is_described(self, grpo_plugin_host: HostMaker) -> None:
        """Fix: write a docstring, and give options types of YAML; ``grpo-host plugins show`` prints both."""
        host = grpo_plugin_host(self.distribution)
        for offer in host.offers:
            require(_own_docstring(offer.factory), f'the {offer.kind} "{offer.name}" has no docstring')
            problem = host.describe(offer).get("error")
            require(not problem, f'the {offer.kind} "{offer.name}" cannot be named in agent.yaml: {problem}')

    def test_its_strategies_say_who_the_agent_is(self, grpo_plugin_host: HostMaker) -> None:
        """Fix: return a ``Strategy`` of the name that it is offered by, the same each time."""
        for offer in grpo_plugin_host(self.distribution).offers:
            if offer.kind != "strategy" or _needs_options(offer.factory):
                continue
            made, again = offer.make(), offer.make()
            require(
                isinstance(made, Strategy),
                f'the strategy "{offer.name}" is a {type(made).__name__}, not a Strategy',
            )
            require(
                made.name == offer.name,
                f'the strategy "{offer.name}" calls itself "{made.name}", which requests would look for',
            )
            require(made == again, f'the strategy "{offer.name}" is another each time: {made} and {again}')

    def test_its_observers_are_quick_and_change_nothing(self, grpo_plugin_host: HostMaker) -> None:
        """Fix: hand what takes time to a thread or a queue of your own, and work on copies: observers run
        between the episodes, and others read the same trajectory."""
        host = grpo_plugin_host(self.distribution)
        for hook, arguments in _observed():
            before = deepcopy(arguments)
            for call in host.observers(hook):
                began = time.perf_counter()
                call(arguments)
                seconds = time.perf_counter() - began
                if seconds > self.blocking_seconds:  # the first call may import something
                    began = time.perf_counter()
                    call(arguments)
                    seconds = time.perf_counter() - began
                require(seconds <= self.blocking_seconds, f"{hook} took {seconds:.2f} s")
                require(arguments == before, f"{hook} changed what it was given")


def _observed() -> Iterator[tuple[str, dict[str, Any]]]:
    for trajectory in samples({}):
        yield "grpo_episode_finished", {"trajectory": trajectory}
    yield "grpo_step_finished", {"step": 1, "metrics": {"step": 1, "reward": 0.5, "seconds": 1.0}}


def _own_docstring(factory: Any) -> str:
    """The docstring of ``factory``, or of its ``__init__``; not what a class inherits."""
    own = vars(factory).get("__doc__") if isinstance(factory, type) else getattr(factory, "__doc__", "")
    if isinstance(factory, type) and not own:
        own = getattr(vars(factory).get("__init__"), "__doc__", "")
    return (own or "").strip()


def _needs_options(factory: Any) -> bool:
    from inspect import Parameter, signature

    variable = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
    parameters = signature(factory).parameters.values()
    return any(p.default is Parameter.empty and p.kind not in variable for p in parameters)
