"""How a served agent is sampled: as it was measured, if nothing else is said."""

from __future__ import annotations

from pathlib import Path

from grpo_host.config.references import resolve_references
from grpo_host.config.schema import (
    AgentConfig,
    EvaluationConfig,
    SamplingConfig,
    ServingConfig,
    ServingSamplingConfig,
)
from grpo_host.config.source import read_source
from grpo_host.plugins.use import Section
from grpo_host.utils.validation import say_location, settings_of
from grpo_sdk.errors import ConfigError

UNMEASURED = SamplingConfig(max_tokens=256, temperature=0.7)
"""How answers are sampled if there is no agent.yaml."""


def served_sampling(config: AgentConfig) -> SamplingConfig:
    """``serving.sampling``, completed with the settings of the evaluation."""
    return filled_up(config.serving.sampling, _measured(config.sampling, config.evaluation))


def filled_up(said: ServingSamplingConfig, rest: SamplingConfig) -> SamplingConfig:
    """``said``, and ``rest`` if it says nothing."""
    return rest.model_copy(update=said.model_dump(exclude_none=True))


class _Run(Section):
    """The part of a run's agent.yaml that says how it was measured."""

    sampling: SamplingConfig = SamplingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    serving: ServingConfig = ServingConfig()


def sampling_of_run(agent_yaml: Path) -> SamplingConfig:
    """The sampling with which a run was measured, from its own ``agent_yaml``; plugins and secrets that the
    rest of the file names need not exist here.

    Raises ``ConfigError`` if it cannot be read.
    """
    values, _ = read_source(agent_yaml)
    parts, _, complaints = resolve_references({key: values.get(key, {}) for key in _Run.model_fields})
    if complaints:
        place = say_location(complaints[0].location)
        raise ConfigError(f"{agent_yaml}: {place}: {complaints[0].message}")
    try:
        run = settings_of(_Run, parts)
    except ConfigError as problem:
        raise ConfigError(f"{agent_yaml}: {problem}") from None
    return filled_up(run.serving.sampling, _measured(run.sampling, run.evaluation))


def _measured(sampling: SamplingConfig, evaluation: EvaluationConfig) -> SamplingConfig:
    return sampling.model_copy(update={"temperature": evaluation.temperature})
