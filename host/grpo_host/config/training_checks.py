"""Check that the numbers of a configuration are consistent."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_host.config.sharing import asked_by, refusals
from grpo_host.rollouts.overlong import OVERLONG
from grpo_host.utils.validation import Complaint
from grpo_sdk.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentConfig, TrainingConfig


def check_context(config: AgentConfig) -> Iterator[Complaint]:
    """Check that the context holds a prompt and an answer."""
    context, answer = config.model.context, config.sampling.max_tokens
    if answer >= context:
        yield Complaint(
            ("sampling", "max_tokens"),
            f"{answer} tokens an answer leave no room for a prompt in a context of {context}. "
            f"Raise model.context or lower this",
        )


def _listed_before(what: str, names: Sequence[str], index: int) -> Iterator[Complaint]:
    if names[index] in names[:index]:
        yield Complaint(
            (f"{what}s", index, "name"),
            f'the {what} "{names[index]}" is listed twice. Leave one out, or give it another name with as:',
        )


def check_rewards(config: AgentConfig, *, training: bool) -> Iterator[Complaint]:
    """Check that no reward appears twice, and that there is something to learn from."""
    names = [use.label for use in config.rewards]
    for index in range(len(names)):
        yield from _listed_before("reward", names, index)
    environments = [use.label for use in config.environments]
    for index, use in enumerate(config.rewards):
        for place, name in enumerate(use.environments):
            if name not in environments:
                there = ", ".join(environments) or "none: this agent.yaml has no mixture"
                yield Complaint(
                    ("rewards", index, "environments", place),
                    f'no environment "{name}" is in the mixture.{did_you_mean(name, environments)} '
                    f"There are: {there}",
                )
    for index, name in enumerate(environments):
        if not any(name in use.environments or not use.environments for use in config.rewards):
            yield Complaint(
                ("environments", index),
                f'no reward scores the episodes of "{name}". Add one, or name it in rewards[…].environments',
            )
    if training and not any(use.weight for use in config.rewards):
        yield Complaint(("rewards",), "all weights are 0: there is nothing to learn. Raise one")


def check_mixture(config: AgentConfig) -> Iterator[Complaint]:
    """Check that the environments of a mixture can be told apart."""
    names = [use.label for use in config.environments]
    for index, name in enumerate(names):
        yield from _listed_before("environment", names, index)
        if "/" in name:
            yield Complaint(
                ("environments", index, "name"),
                f'"{name}" has a / in it, which parts the names of metrics. Give it another name with as:',
            )


def check_training(config: AgentConfig) -> Iterator[Complaint]:
    """Check what GRPO needs to be unbiased and to divide its batch."""
    sampling, training = config.sampling, config.training
    if sampling.temperature == 0:
        yield Complaint(
            ("sampling", "temperature"),
            "at 0 all episodes of a group are the same and nothing is learnt. Train at 1.0",
        )
    for key, neutral, value in (("top_p", 1.0, sampling.top_p), ("top_k", 0, sampling.top_k)):
        if value != neutral:
            yield Complaint(
                ("sampling", key),
                f"training needs samples of the whole distribution: the policy gradient is biased "
                f"where {key} cuts it. Set it to {neutral:g}",
            )
    if training.early_stopping and not config.evaluation.episodes:
        yield Complaint(
            ("training", "early_stopping"),
            "there is nothing to measure with: evaluation.episodes is 0. Raise it",
        )
    yield from check_update(training)
    yield from _check_staleness(config)
    if training.overlong_buffer > sampling.max_tokens:
        yield Complaint(
            ("training", "overlong_buffer"),
            f"a reply has at most {sampling.max_tokens} tokens (sampling.max_tokens). Give fewer",
        )
    if training.overlong_buffer and any(use.label == OVERLONG for use in config.rewards):
        yield Complaint(
            ("training", "overlong_buffer"),
            f"its penalty is called {OVERLONG}, as a reward of yours is. Give that another name with as:",
        )
    episodes = training.tasks_per_step * training.group_size // training.world_size
    if episodes % training.minibatches:
        yield Complaint(
            ("training", "minibatches"),
            f"{episodes} episodes of a process do not divide into {training.minibatches}. Give a divisor",
        )
    if training.tasks_per_step % training.world_size:
        yield Complaint(
            ("training", "world_size"),
            f"{training.tasks_per_step} tasks a step do not divide into {training.world_size} processes. "
            f"Set tasks_per_step to a multiple of it",
        )


def _check_staleness(config: AgentConfig) -> Iterator[Complaint]:
    training = config.training
    if training.max_staleness and training.importance_sampling == "none":
        yield Complaint(
            ("training", "importance_sampling"),
            "what older weights sampled has to be corrected for: with max_staleness, choose another",
        )
    if training.max_staleness and config.deterministic:
        yield Complaint(
            ("training", "max_staleness"),
            "a run that samples ahead is not the same twice: what is sampled while the trainer works depends "
            "on how fast it is. Set it to 0, or deterministic to false",
        )


def check_update(training: TrainingConfig) -> Iterator[Complaint]:
    """Check that the loss can honour its settings."""
    yield from _check_clipping(training)
    yield from _check_idle(training)
    yield from _check_load_in(training)
    yield from _check_accelerate(training)
    if training.multi_objective_aggregation == "normalize_then_sum" and training.scale_rewards != "group":
        yield Complaint(
            ("training", "scale_rewards"),
            "with normalize_then_sum each reward is divided by its own deviation in its group, and this "
            "changes nothing. Leave it at group",
        )
    for key in ("adam_beta1", "adam_beta2"):
        default = type(training).model_fields[key].default
        if not training.optimizer.startswith("adam") and getattr(training, key) != default:
            yield Complaint(
                ("training", key), f"{training.optimizer} has no such number. Leave it at {default:g}"
            )
    if training.optimizer == "adamw_8bit" and find_spec("bitsandbytes") is None:
        yield Complaint(
            ("training", "optimizer"),
            "adamw_8bit needs the package bitsandbytes: pip install bitsandbytes, or take another",
        )


def _check_idle(training: TrainingConfig) -> Iterator[Complaint]:
    """Find settings that nothing would read, since what they belong to is off."""
    for key, on, what in (
        ("reference", training.beta, "beta is 0, so there is no penalty for leaving it"),
        ("overlong_penalty", training.overlong_buffer, "overlong_buffer is 0, so no reply is overlong"),
        (
            "importance_sampling_cap",
            training.importance_sampling != "none",
            "importance_sampling is none, so there is no ratio to cap",
        ),
    ):
        default = type(training).model_fields[key].default
        if not on and getattr(training, key) != default:
            yield Complaint(
                ("training", key), f"{what}: this changes nothing. Leave it at {default}, or turn that on"
            )


def _check_load_in(training: TrainingConfig) -> Iterator[Complaint]:
    if training.load_in is None:
        return
    if training.lora is None:
        yield Complaint(
            ("training", "load_in"),
            "weights of so few bits cannot be trained. Train an adapter on them (training.lora), or leave "
            "it out",
        )
    if find_spec("bitsandbytes") is None:
        yield Complaint(
            ("training", "load_in"),
            f"{training.load_in} needs the package bitsandbytes: pip install bitsandbytes, or leave it out",
        )


def _check_accelerate(training: TrainingConfig) -> Iterator[Complaint]:
    if training.accelerate is None:
        return
    try:
        for why in refusals(asked_by(Path(training.accelerate))):
            yield Complaint(("training", "accelerate"), why)
    except ConfigError as problem:
        yield Complaint(("training", "accelerate"), str(problem))
    if training.world_size == 1:
        yield Complaint(
            ("training", "accelerate"),
            "one process has nothing to share the model with. Start more (--nproc, training.world_size), or "
            "leave it out",
        )
    yield from check_shared(training)


def check_shared(training: TrainingConfig) -> Iterator[Complaint]:
    """Check that what is trained can be spread over the processes."""
    if training.load_in is not None:
        yield Complaint(
            ("training", "load_in"),
            f"weights in {training.load_in} cannot be shared between processes. Leave it out, or "
            "training.accelerate",
        )
    if training.optimizer == "adafactor":  # in transformers its state is whole, and its gradients are parts
        yield Complaint(
            ("training", "optimizer"),
            "adafactor cannot be used where processes share the model. Take adamw_torch_fused, or leave "
            "training.accelerate out",
        )


def _check_clipping(training: TrainingConfig) -> Iterator[Complaint]:
    cispo = training.loss == "cispo"
    default = type(training).model_fields["epsilon"].default
    high = training.epsilon_high is not None
    for key, given in (("epsilon", training.epsilon != default), ("epsilon_high", high)):
        leave = f"Leave it at {'null' if key == 'epsilon_high' else f'{default:g}'}"
        if given and training.iterations * training.minibatches == 1:
            yield Complaint(
                ("training", key),
                "it clips the ratio between the policy now and before the batch's first update, and a batch "
                f"has one update: the ratio is 1, and this changes nothing. {leave}, or give iterations or "
                "minibatches",
            )
        elif given and cispo and key == "epsilon":
            yield Complaint(("training", key), f"cispo clips above only, at epsilon_high. {leave}")
    if cispo and training.epsilon_high is not None and training.epsilon_high < 1:
        yield Complaint(
            ("training", "epsilon_high"),
            f"for cispo it is the largest ratio, and no ratio would be above {training.epsilon_high:g}. "
            "Give more than 1, such as 5",
        )


def check_online(training: TrainingConfig) -> Iterator[Complaint]:
    """Check that nothing is asked of one update that only a whole run does."""
    for key in ("dynamic_sampling", "overlong_buffer", "max_staleness", "load_in", "accelerate"):
        if getattr(training, key):
            at = "null" if key in ("load_in", "accelerate") else "0"
            yield Complaint(("training", key), f"only a whole run does it (grpo-host run). Leave it at {at}")
    if training.lora is None and training.beta:
        yield Complaint(
            ("training", "beta"),
            "without lora the KL penalty needs a second model, which only a whole run has (grpo-host run). "
            "Set it to 0",
        )


def check_dialogues(config: AgentConfig) -> Iterator[Complaint]:
    """Check that the dialogues of a warm start can be read and show what to say."""
    warm_start = config.training.warm_start
    if warm_start is not None and warm_start.dialogues is None and warm_start.min_reward is not None:
        yield Complaint(
            ("training", "warm_start", "min_reward"),
            "an environment's demonstrations have no reward. Name a file of episodes in dialogues, or leave "
            "it out",
        )
    if warm_start is None or warm_start.dialogues is None:
        return
    from grpo_host.dialogues import read_demonstrations

    try:
        read_demonstrations(warm_start.dialogues)
    except ConfigError as error:
        yield Complaint(("training", "warm_start", "dialogues"), str(error))


def check_output(config: AgentConfig) -> Iterator[Complaint]:
    """Check that run directories can be made."""
    output = Path(config.output).absolute()
    existing = next(path for path in (output, *output.parents) if path.exists())
    if not existing.is_dir():
        yield Complaint(("output",), f"{existing} is a file. Give a directory")
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield Complaint(("output",), f"{existing} is not writable. Give another directory")
