"""Everything about a configuration that can be checked without loading a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from grpo_host.assembly.from_yaml import (
    build_curriculum,
    build_environment,
    build_reward,
    build_strategy,
    environment_overrides,
    make_backend,
    make_environment,
)
from grpo_host.assembly.tools import tools_of
from grpo_host.checks.app import check_app, unused_tools
from grpo_host.checks.environment import (
    REFUSED_NAME,
    TOOL_NAME,
    check_columns,
    check_environment,
    check_tasks,
)
from grpo_host.checks.memory import MemoryEstimate, check_memory, estimate_memory
from grpo_host.checks.model import check_lora
from grpo_host.checks.probe import EnvironmentFacts, probe_environment, probe_serving_tools
from grpo_host.checks.rendering import check_rendering
from grpo_host.config.backend_checks import (
    check_backend_option,
    check_capabilities,
    check_installed,
    check_model,
    check_settings,
)
from grpo_host.config.problems import InvalidConfigError, Problem
from grpo_host.config.resolve import plugin_uses
from grpo_host.config.training_checks import (
    check_context,
    check_dialogues,
    check_mixture,
    check_output,
    check_rewards,
    check_training,
)
from grpo_host.plugins.options import OptionsError
from grpo_host.utils.stdout import plugins_print_to_stderr
from grpo_host.utils.validation import Complaint, Location
from grpo_sdk.environment import HELD_OUT, TRAIN
from grpo_sdk.errors import GrpoError
from grpo_sdk.tools import bind

if TYPE_CHECKING:
    from grpo_host.config.resolve import ResolvedConfig
    from grpo_sdk.backend import Backend

Purpose = Literal["train", "eval", "rollout", "chat"]


@dataclass
class Report:
    """What a check found."""

    problems: list[Problem]
    tasks: dict[str, int] = field(default_factory=dict)
    """Split → number of tasks; empty if the environment was not asked."""
    tools: list[str] = field(default_factory=list)
    """Names of the tools, including the environment's."""
    warnings: list[str] = field(default_factory=list)
    """No mistakes, but worth knowing."""
    memory: MemoryEstimate | None = None
    """Of a training; None if it cannot be estimated."""

    def raise_for_problems(self) -> Report:
        """Raise ``InvalidConfigError`` with all problems if there are any, else return the report."""
        if self.problems:
            raise InvalidConfigError(self.problems)
        return self


def check(resolved: ResolvedConfig, *, purpose: Purpose = "train") -> Report:
    """Check ``resolved`` for ``purpose``.

    Makes rewards, tools, strategy and curriculum, which ``resolved`` keeps; whoever has it closes them. Makes
    an environment, resets it once, and closes it.
    """
    checker = _Checker(resolved, purpose)
    with plugins_print_to_stderr():
        checker.run()
    ordered = sorted(checker.complaints, key=lambda c: checker.line(c.location))
    return Report(
        problems=[resolved.origin.problem(complaint) for complaint in ordered],
        tasks={split: len(ids) for split, ids in checker.facts.tasks.items()},
        tools=checker.tools,
        warnings=checker.warnings,
        memory=checker.memory,
    )


class _Checker:
    """One check: what was found so far."""

    def __init__(self, resolved: ResolvedConfig, purpose: Purpose) -> None:
        self.resolved = resolved
        self.config = resolved.config
        self.registry = resolved.registry
        self.purpose = purpose
        self.training = purpose == "train"
        self.complaints: list[Complaint] = []
        self.facts = EnvironmentFacts()
        self.tools: list[str] = []
        self.warnings: list[str] = []
        self.memory: MemoryEstimate | None = None
        self.backend: Backend | None = None
        """Not started; None if it cannot be made."""
        self.bad: set[Location] = set()
        """Locations of plugins that cannot be made, because they or their options are wrong."""

    def line(self, location: Location) -> int:
        """For sorting: overrides first, then by line."""
        from grpo_host.config.source import line_of

        origin = self.resolved.origin
        return 0 if origin.override_of(location) else line_of(location, origin.lines)

    def run(self) -> None:
        """Run all checks, those that depend on others last."""
        self.complaints += self._uses()
        self.complaints += self._backend_options()
        self.complaints += self._rewards()
        self.complaints += check_rewards(self.config, training=self.training)
        self.complaints += check_mixture(self.config)
        self.complaints += self._curriculum()
        self.complaints += check_context(self.config)
        if self.training:
            self.complaints += check_training(self.config)
            self.complaints += check_dialogues(self.config)
            self.complaints += check_lora(self.config)
            self.memory = estimate_memory(self.config)
            self.warnings += check_memory(self.memory)
        if self.purpose in ("train", "eval"):
            self.complaints += check_output(self.config)
        if not any(location in self.bad for location, _ in self.config.played):
            self.complaints += self._serving_tools() if self.purpose == "chat" else self._environment()
        self.complaints += self._tools()
        self.warnings += unused_tools(self.config.agent, self.facts.tools)
        if ("backend",) not in self.bad:
            self.complaints += self._backend()
        self.complaints += check_app(self.config.agent, self.backend)

    def _uses(self) -> Iterator[Complaint]:
        """Check that every plugin that is named exists, works, and accepts its options."""
        for location, _, _ in plugin_uses(self.config):
            yield from self._use(location)

    def _use(self, location: Location) -> Iterator[Complaint]:
        try:
            self.resolved.use(location)
        except OptionsError as error:
            self.bad.add(location)
            for complaint in error.complaints:
                place = (*location, "options", *complaint.location)
                yield Complaint(place, complaint.message)
        except GrpoError as error:
            self.bad.add(location)
            yield Complaint((*location, "name"), str(error))

    def _backend_options(self) -> Iterator[Complaint]:
        """Check that the rewards' and environments' own backends exist and can chat."""
        for location in self.resolved.backend_options():
            found = list(self._use(location))
            if not found:
                backend = cast("type[Backend]", self.resolved.use(location).offer.factory)
                found = list(check_backend_option(self.resolved.backend_use(location), backend, location))
            if found:
                self.bad.add(location[:-2])  # the reward or environment
            yield from found

    def _rewards(self) -> Iterator[Complaint]:
        for index in range(len(self.config.rewards)):
            if ("rewards", index) in self.bad:
                continue
            try:
                build_reward(self.resolved, index)
            except GrpoError as error:
                self.bad.add(("rewards", index))
                yield Complaint(("rewards", index), str(error))

    def _curriculum(self) -> Iterator[Complaint]:
        if self.training and ("training", "curriculum") not in self.bad:
            try:
                build_curriculum(self.resolved)
            except GrpoError as error:
                yield Complaint(("training", "curriculum"), str(error))

    def _environment(self) -> Iterator[Complaint]:
        evaluates = self.purpose == "eval" or (self.training and self.config.evaluation.episodes > 0)
        warm_start = self.training and self.config.training.warm_start is not None
        splits = [TRAIN, HELD_OUT, *([self.config.evaluation.split] if evaluates else [])]
        for location, use in self.config.played:
            if location in self.bad:
                continue
            facts = probe_environment(
                make_environment(self.resolved, location),
                list(dict.fromkeys(splits)),
                demonstrations=warm_start,
                seconds=self.config.agent.limits.probe_seconds,
            )
            self.facts = facts if location == ("environment",) else self.facts.mixed(use.label, facts)
            yield from check_environment(facts, location, training=self.training)
            if facts.error is None and any(facts.tasks.values()):
                yield from self._columns(use.label, facts)
        if self.facts.error is None:
            yield from check_tasks(self.config, self.facts, training=self.training, evaluates=evaluates)

    def _columns(self, environment: str, facts: EnvironmentFacts) -> Iterator[Complaint]:
        """Check that the tasks of an environment have what rewards of its episodes read by name."""
        for index, use in enumerate(self.config.rewards):
            location = ("rewards", index)
            if location in self.bad or (use.environments and environment not in use.environments):
                continue
            yield from check_columns(build_reward(self.resolved, index).reward, location, facts, environment)

    def _serving_tools(self) -> Iterator[Complaint]:
        if not any(
            environment_overrides(use, self.registry, "serving_tools") for _, use in self.config.played
        ):
            return  # it need not even be made
        self.facts = probe_serving_tools(
            build_environment(self.resolved), seconds=self.config.agent.limits.probe_seconds
        )
        if self.facts.error is not None:
            yield Complaint(
                self.config.played[0][0][:1], f"its serving tools cannot be had: {self.facts.error}"
            )

    def _tools(self) -> Iterator[Complaint]:
        """Check that tools can be made, have distinct names, and include those that the strategy uses."""
        made: dict[str, int] = {}
        undescribed = list(self.facts.undescribed)
        for index in range(len(self.config.agent.tools)):
            where = ("agent", "tools", index)
            if where in self.bad:
                continue
            try:
                tools = [bind(tool) for tool in tools_of(self.resolved, index)]
            except GrpoError as error:
                yield Complaint(where, str(error))
                continue
            for tool in tools:
                if problem := self._name_problem(tool.name, made):
                    yield Complaint(where, problem)
                else:
                    made[tool.name] = index
            undescribed += [tool.name for tool in tools if not tool.described]
        self.tools = [*made, *self.facts.tools]
        self.warnings += [
            f'the tool "{name}" has no description: the model sees only its name. Write what it does as its '
            "function's docstring"
            for name in undescribed
        ]
        if ("agent", "strategy") not in self.bad:
            yield from self._strategy(made)

    def _name_problem(self, name: str, made: dict[str, int]) -> str | None:
        """What is wrong with a tool of agent.yaml that is called ``name``, after those that are ``made``."""
        if not TOOL_NAME.fullmatch(name):
            return f'this tool is called "{name}", {REFUSED_NAME}'
        if name in made:
            other = f"agent.tools[{made[name]}]"
        elif name in self.facts.tools:
            other = "one of the environment's"
        else:
            return None
        return f'this tool and {other} are both called "{name}". Leave one of them out'

    def _strategy(self, made: dict[str, int]) -> Iterator[Complaint]:
        where = ("agent", "strategy")
        try:
            strategy = build_strategy(self.resolved)
        except GrpoError as error:
            yield Complaint(where, str(error))
            return
        if strategy.tools is None:
            return
        for name in strategy.tools:
            if name not in self.tools and self.purpose != "chat":
                there = ", ".join(self.tools) or "none"
                yield Complaint(
                    where,
                    f'the strategy "{strategy.name}" uses the tool "{name}", which is not there. '
                    f"Add it to agent.tools; the tools are: {there}",
                )
        for name, index in made.items():
            if name not in strategy.tools:
                yield Complaint(
                    ("agent", "tools", index),
                    f'the strategy "{strategy.name}" does not use the tool "{name}". Leave it out',
                )

    def _backend(self) -> Iterator[Complaint]:
        use, chosen = self.config.backend, self.resolved.use(("backend",))
        backend = cast("type[Backend]", chosen.offer.factory)  # the registry takes no others
        yield from check_capabilities(
            self.config, backend, self.registry, training=self.training, tools=self.tools
        )
        # Another backend on the command line need not honour what the file says for its own.
        if self.resolved.origin.override_of(("backend",)) is None:
            yield from check_settings(self.config.model, use, backend)
        yield from check_installed(self.config, backend, training=self.training)
        yield from check_model(self.config.model, backend)
        wrong, doubts = check_rendering(self.config.model, backend)
        yield from wrong
        self.warnings += [f"model {self.config.model.name}: {doubt}" for doubt in doubts]
        try:
            self.backend = make_backend(chosen, self.config.model, find_model=False)
        except GrpoError as error:
            yield Complaint(("backend",), str(error))
