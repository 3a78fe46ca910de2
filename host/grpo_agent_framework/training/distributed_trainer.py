"""``DistributedGRPOTrainer``: a whole training run of Python objects, in one process or several."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from grpo_host.agents.agent import Agent
from grpo_host.assembly.from_python.agents import as_agent, checked_agent, is_trainable
from grpo_host.assembly.from_python.environments import PromptEnvironment, as_environment
from grpo_host.assembly.from_python.rewards import as_rewards
from grpo_host.config.schema import AgentConfig, Count, Positive, Temperature
from grpo_host.models.precision import fast_dtype
from grpo_host.plugins.use import Section
from grpo_host.rollouts.scoring import WeightedReward
from grpo_host.utils.validation import config_error, settings_of
from grpo_sdk.environment import HELD_OUT, TRAIN
from grpo_sdk.errors import CapabilityError, ConfigError

LORA_RATE, WHOLE_RATE = 3e-4, 1e-5
"""Learning rates if none is given: an adapter takes larger steps than a whole model."""


class Settings(Section):
    """Checked as they are given. Raises ``ConfigError``."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as problem:
            raise config_error(type(self), problem, values) from None


S = TypeVar("S", bound=Settings)


class TrainingConfig(Settings):
    """What is trained, for how long, and how it is measured."""

    num_episodes: Count = 200
    """Episodes to train on, all together; rounded up to whole steps."""
    num_generations: Annotated[int, Field(ge=2)] = 8
    """Episodes of one prompt, which GRPO compares with each other."""
    learning_rate: Positive | None = None
    """None: 3e-4 with LoRA, 1e-5 without."""
    use_lora: bool = True
    """Train a LoRA adapter; else the whole model."""
    lora_r: Count = 16
    lora_alpha: Count = 32
    bf16: bool | None = None
    """The model in training computes in bfloat16, or in float32; None: in what this machine multiplies
    fast. The agent samples in its own dtype."""
    gradient_clipping: Positive = 1.0
    """The gradient's norm is scaled down to this."""
    per_device_batch_size: Count | None = None
    """Episodes a forward pass; None: ``num_generations``."""
    temperature: Temperature | None = None
    """Of the episodes trained on; None: the agent's."""
    run_pre_eval: bool | None = None
    """Measure before training; None: if it is measured afterwards."""
    run_post_eval: bool = False
    """Measure after training."""
    eval_episodes: Count = 32
    early_stopping: bool = False
    """Stop if the held-out reward does not rise any more, and keep the best weights."""
    patience: Count = 50
    """Steps without a better held-out reward until then."""
    eval_every: Count = 10
    """Steps between two measurements for early stopping."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """A held-out reward is better only if it is higher by more than this."""
    prompts: list[str] = Field(default_factory=list)
    """What the user opens episodes with. Empty: the environment's ``prompts``, else what the agent's
    dialogue database holds, else the environment's own opening."""
    held_out_prompts: list[str] | None = None
    """What is only measured with; None: every fifth prompt."""
    num_workers: Count = 32
    """Episodes side by side, in each process."""
    save_every: Count = 10
    """Steps between two checkpoints."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    name: str = ""
    """Names the folder of the run; empty: after the agent's model."""
    output: str = "runs"
    """Parent of the run directories."""
    quiet: bool = False
    """Print nothing."""


class DistributedConfig(Settings):
    """How the work is divided."""

    world_size: Count = 1
    """Processes on this machine, each with the model and its share of the prompts; 1: this process."""
    mixed_precision: bool | None = None
    """What is trained stays float32 while the model computes in bfloat16. None: as ``bf16``."""
    gradient_accumulation_steps: Count = 1
    """Batches of each process that make one optimizer step."""
    accelerate: str | None = None
    """A file: the accelerate configuration (FSDP2) with which the processes share the model. None: each holds
    all of it."""


class DistributedGRPOTrainer:
    """Trains an agent with GRPO and gives it back; the run is kept in a directory, like grpo-host's."""

    def __init__(
        self,
        agent: object,
        environment: object,
        reward_function: object = None,
        training_config: TrainingConfig | None = None,
        distributed_config: DistributedConfig | None = None,
    ) -> None:
        """Raises ``ConfigError`` for what is no agent, environment or reward, or settings that do not fit."""
        self.agent = checked_agent(agent)
        self.environment = environment
        self.training_config = _settings("training_config", TrainingConfig, training_config)
        self.distributed_config = _settings("distributed_config", DistributedConfig, distributed_config)
        prompts, held_out = self._prompts()
        self._environment = as_environment(environment, prompts, held_out)
        made = self._environment()
        asked = self.training_config
        if not isinstance(made, PromptEnvironment) and (asked.prompts or asked.held_out_prompts):
            raise ConfigError(
                f"prompts: {type(made).__name__} has tasks of its own. Leave prompts and held_out_prompts out"
            )
        self._measured = HELD_OUT if made.tasks(HELD_OUT) else TRAIN
        self._rewards = as_rewards(reward_function, steps_are_rewarded=isinstance(made, PromptEnvironment))
        self.run_directory: Path | None = None
        """Of the last ``train``."""
        self._precision()
        self._batch()

    async def train(self, *, resume: str | None = None) -> Any:
        """The agent that was given, which speaks with the trained weights from now on.

        ``resume`` goes on with an interrupted run: ``latest``, its id or its directory. Cancelling
        the call saves a checkpoint. Raises ``CapabilityError`` if the agent's model cannot be
        trained, ``ConfigError``, ``ModelError`` and ``RunError``.
        """
        from grpo_host.training.from_python import ObjectRun, train_here, train_in_ranks

        agent = await as_agent(self.agent)
        if not is_trainable(agent):
            raise CapabilityError(
                f"agent: the backend {type(agent.backend).__name__} cannot be trained with. Give an agent "
                "with a local model on a backend such as transformers or vllm"
            )
        config = self._config(agent)
        # The gradient is biased where samples do not come from the whole distribution.
        sampling = replace(agent.sampling, temperature=config.sampling.temperature, top_p=1.0, top_k=0)
        run = ObjectRun(
            config,
            replace(agent, sampling=sampling),
            self._environment,
            self._rewards,
            resume,
            self.training_config.quiet,
        )
        run.check()
        train = train_here if config.training.world_size == 1 else train_in_ranks
        self.run_directory = await train(run)
        return self.agent

    @property
    def report(self) -> dict[str, Any]:
        """report.json of the last ``train``: what was measured before and after, steps, seconds."""
        if self.run_directory is None:
            return {}
        report: dict[str, Any] = json.loads((self.run_directory / "report.json").read_text("utf-8"))
        return report

    def _prompts(self) -> tuple[list[str], list[str] | None]:
        settings = self.training_config
        given = settings.prompts or list(getattr(self.environment, "prompts", ()))
        held_out = settings.held_out_prompts
        if held_out is None:
            held_out = getattr(self.environment, "held_out_prompts", None)
        return given or dialogue_prompts(self.agent), held_out

    def _precision(self) -> tuple[str, bool]:
        mixed = self.distributed_config.mixed_precision
        bf16 = self.training_config.bf16
        if bf16 is None:
            bf16 = mixed or fast_dtype() == "bfloat16"
        if mixed and not bf16:
            raise ConfigError("mixed_precision computes in bfloat16, and bf16 is off. Set both, or neither")
        return "bfloat16" if bf16 else "float32", bf16 if mixed is None else mixed

    def _batch(self) -> tuple[int, int]:
        """Episodes a forward pass, and prompts a step."""
        group = self.training_config.num_generations
        rows = self.training_config.per_device_batch_size or group
        accumulation = self.distributed_config.gradient_accumulation_steps
        if rows * accumulation % group:
            raise ConfigError(
                f"per_device_batch_size {rows} times gradient_accumulation_steps {accumulation} is no "
                f"multiple of num_generations {group}: a process plays whole groups. Set one of them to fit"
            )
        return rows, rows * accumulation // group * self.distributed_config.world_size

    def _config(self, agent: Agent) -> AgentConfig:
        given, spec = self.training_config, agent.backend.model
        dtype, mixed = self._precision()
        micro_batch, tasks_per_step = self._batch()
        before = given.run_post_eval if given.run_pre_eval is None else given.run_pre_eval
        temperature = agent.sampling.temperature if given.temperature is None else given.temperature
        measures = before or given.run_post_eval or given.early_stopping
        shared = self.distributed_config.accelerate
        early = {"patience": given.patience, "every": given.eval_every, "min_delta": given.min_delta}
        rate = given.learning_rate or (LORA_RATE if given.use_lora else WHOLE_RATE)
        return settings_of(
            AgentConfig,
            {
                "name": _folder(given.name or spec.name),
                "seed": given.seed,
                "model": {"name": spec.name, "dtype": dtype, "context": spec.context},
                "backend": type(getattr(agent.backend, "inner", agent.backend)).__name__,
                "environment": getattr(self.environment, "__name__", type(self.environment).__name__),
                "rewards": [_use(item) for item in self._rewards],
                "agent": {"limits": {"turns": agent.limits.turns, "turn_seconds": agent.limits.turn_seconds}},
                "sampling": {"max_tokens": agent.sampling.max_tokens, "temperature": temperature},
                "rollouts": {"concurrency": given.num_workers},
                "training": {
                    "steps": math.ceil(given.num_episodes / (tasks_per_step * given.num_generations)),
                    "tasks_per_step": tasks_per_step,
                    "group_size": given.num_generations,
                    "micro_batch": micro_batch,
                    "learning_rate": rate,
                    "lora": {"r": given.lora_r, "alpha": given.lora_alpha} if given.use_lora else None,
                    "mixed_precision": mixed,
                    "max_grad_norm": given.gradient_clipping,
                    "save_every": given.save_every,
                    "early_stopping": early if given.early_stopping else None,
                    "world_size": self.distributed_config.world_size,
                    "accelerate": shared and str(Path(shared).expanduser().absolute()),
                },
                "evaluation": {
                    "episodes": given.eval_episodes if measures else 0,
                    "before": before,
                    "after": given.run_post_eval,
                    "split": self._measured,
                },
                "output": given.output,
            },
        )


def _settings(name: str, kind: type[S], given: object) -> S:
    if given is None:
        return kind()
    if not isinstance(given, kind):
        raise ConfigError(f"{name}: give {kind.__name__}(...), not {type(given).__name__}")
    return given


def dialogue_prompts(agent: object) -> list[str]:
    """What users say in the dialogue database of ``agent``, if it has one."""
    database = getattr(agent, "dialogue_database", None)
    return [dialogue.content for dialogue in database] if isinstance(database, Iterable) else []


def _use(item: WeightedReward) -> dict[str, Any]:
    return {"name": item.name, "weight": item.weight, "seconds": item.seconds}


def _folder(name: str) -> str:
    plain = re.sub(r"[^a-z0-9]+", "-", Path(name).name.lower()).strip("-")
    return plain[:64] or "agent"
