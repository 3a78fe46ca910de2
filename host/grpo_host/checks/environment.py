"""Check that the environment has what a run or an evaluation needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from grpo_host.utils.validation import Complaint, Location
from grpo_sdk.environment import HELD_OUT, TRAIN
from grpo_sdk.errors import did_you_mean
from grpo_sdk.rewards import FunctionReward
from grpo_sdk.trl import TrlReward

if TYPE_CHECKING:
    from grpo_host.checks.probe import EnvironmentFacts
    from grpo_host.config.schema import AgentConfig

TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What every provider of models takes."""
REFUSED_NAME = "which providers refuse: a name is up to 64 letters, digits, - and _"


def check_environment(facts: EnvironmentFacts, where: Location, *, training: bool) -> Iterator[Complaint]:
    """Find what is wrong with the environment at ``where``, from the facts of a probe."""
    if facts.error is not None:
        yield Complaint(where, f"it could not be tried: {facts.error}")
        return
    yield from _check_ids(facts, where)
    yield from _check_tools(facts, where)
    if training and not facts.tasks[TRAIN]:
        yield Complaint(
            where, "it has no train tasks. Give it some by its options, or name another environment"
        )
    elif not training and not any(facts.tasks.values()):
        yield Complaint(where, "it has no tasks in train or held_out")


def check_tasks(
    config: AgentConfig, facts: EnvironmentFacts, *, training: bool, evaluates: bool
) -> Iterator[Complaint]:
    """Find what the run asks of the environment, or of all that are mixed, and ``facts`` have not."""
    if training:
        yield from _check_train_tasks(config, facts)
    if evaluates:
        yield from _check_evaluation_tasks(config, facts)
    warm_start = config.training.warm_start if training else None
    if warm_start is not None and warm_start.dialogues is None and not facts.demonstrations:
        yield Complaint(
            ("training", "warm_start"),
            f'the environment "{config.environment_label}" has no demonstrations. Leave warm_start out, '
            f"or give it dialogues",
        )


def check_columns(
    reward: object, where: Location, facts: EnvironmentFacts, environment: str
) -> Iterator[Complaint]:
    """Find what the reward at ``where`` reads by name that no task of ``environment`` has in its data."""
    if not isinstance(reward, FunctionReward | TrlReward):
        return
    for name in reward.needs:
        if name not in facts.data:
            hint = did_you_mean(name, sorted(facts.data)) or f" {reward.needs_help}"
            yield Complaint(
                where,
                f'it asks for "{name}", which no task of the environment "{environment}" has in its data: '
                f"{', '.join(sorted(facts.data)) or 'nothing'}.{hint}",
            )


def _check_ids(facts: EnvironmentFacts, where: Location) -> Iterator[Complaint]:
    for split, ids in facts.tasks.items():
        if len(set(ids)) < len(ids):
            twice = next(id_ for id_ in ids if ids.count(id_) > 1)
            yield Complaint(where, f'two {split} tasks have the id "{twice}"; each needs its own')
    if shared := set(facts.tasks[TRAIN]) & set(facts.tasks[HELD_OUT]):
        yield Complaint(
            where,
            f'train and held_out share {len(shared)} tasks, such as "{min(shared)}": '
            f"an evaluation would measure what was learnt by heart",
        )


def _check_tools(facts: EnvironmentFacts, where: Location) -> Iterator[Complaint]:
    for name in dict.fromkeys(facts.tools):
        if facts.tools.count(name) > 1:
            yield Complaint(where, f'two of its tools are called "{name}"; each needs its own name')
        if not TOOL_NAME.fullmatch(name):
            yield Complaint(
                where,
                f'its tool is called "{name}", {REFUSED_NAME}',
            )


def _check_train_tasks(config: AgentConfig, facts: EnvironmentFacts) -> Iterator[Complaint]:
    found, needed = len(facts.tasks[TRAIN]), config.training.tasks_per_step
    if 0 < found < needed:
        yield Complaint(
            ("training", "tasks_per_step"),
            f"a step plays {needed} tasks, and the environment has {found} to train on. "
            f"Set it to {found} or less",
        )


def _check_evaluation_tasks(config: AgentConfig, facts: EnvironmentFacts) -> Iterator[Complaint]:
    evaluation = config.evaluation
    found = len(facts.tasks[evaluation.split])
    if not found:
        filled = ", ".join(split for split, ids in facts.tasks.items() if ids)
        yield Complaint(
            ("evaluation", "split"),
            f"the environment has no {evaluation.split} tasks. It has: {filled or 'none'}. Set "
            "evaluation.episodes to 0 to train without an evaluation",
        )
    elif found < evaluation.episodes:
        yield Complaint(
            ("evaluation", "episodes"),
            f"{evaluation.episodes} episodes need as many tasks, and the environment has {found} "
            f"in {evaluation.split}. Set it to {found} or less",
        )
