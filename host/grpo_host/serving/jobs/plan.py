"""From a request to the agent.yaml of its run: the server's own, with what the request may choose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from grpo_host.config.references import escape_references
from grpo_host.config.resolve import resolve
from grpo_host.config.resolved import dump_resolved, to_yaml
from grpo_host.openai_protocol.errors import ApiError
from grpo_host.plugins.options import OptionsError, options_model, validate_options
from grpo_host.plugins.use import PluginUse
from grpo_host.serving.jobs.allowed_options import allowed_options, require_small
from grpo_host.serving.jobs.record import JobPlan
from grpo_host.serving.jobs.request import COMPUTATIONAL, NamedUse, TrainRequest
from grpo_host.utils.validation import keys_at
from grpo_sdk.backend import TRAINABLE, Backend
from grpo_sdk.errors import GrpoError

if TYPE_CHECKING:
    from pathlib import Path

    from grpo_host.config.load import LoadedConfig
    from grpo_host.plugins import Kind, Registry

PROMPTS = "prompts"
"""The environment of jobs that give prompts."""
GENERAL_REWARDS = ("empathy", "professionalism", "action_orientation")
"""Of jobs whose strategy has no rewards of its own."""
REWARD_OF = {"advanced_customer_service": "customer_service"}
"""Rewards of strategies that have none of their own name."""
RUN_COMMANDS = {"mcp", "python"}
"""Tools that run what they are told to: a request cannot bring them to an agent that has them not."""
EXPECTED = "expected_responses"
"""The option of a strategy's reward that takes good answers."""
NEURAL_REWARD = "neural"
NEURAL_WEIGHT = 0.3


class Plan:
    """Makes agent.yaml for jobs of one server: its model, backend, agent and training settings stand.

    ``loaded``: what is served; the options that it gives a reward, tool or environment are those of a
    job that names it too. From a request come only names of what is registered, texts as texts, and
    options that are numbers, booleans or fixed choices.
    """

    def __init__(self, loaded: LoadedConfig, registry: Registry) -> None:
        self._config = loaded.config
        self._loaded = loaded
        self._registry = registry

    @cached_property
    def _base(self) -> dict[str, Any]:
        """The server's agent.yaml with every default, as YAML has it."""
        from ruamel.yaml import YAML

        text = dump_resolved(resolve(self._loaded, self._registry))
        values: dict[str, Any] = YAML(typ="safe", pure=True).load(text)
        return values

    def make(self, request: TrainRequest) -> JobPlan:
        """Raises ``ApiError`` if the request names what is not there, or options that it may not set."""
        backend = cast("type[Backend]", self._registry.get("backend", self._config.backend.name).factory)
        if not getattr(backend, "capabilities", frozenset()) >= TRAINABLE:
            raise ApiError(
                409,
                "not_trainable",
                f'the agent is served by the backend "{self._config.backend.name}", which cannot be trained',
            )
        text = to_yaml(self.values(request))
        return JobPlan(
            request.strategy, self._config.name, request.num_iterations, text, self._notes(request)
        )

    def _notes(self, request: TrainRequest) -> list[str]:
        if not request.use_neural_rewards or self._has_learnt_neural():
            return []
        return [
            "the neural reward has learnt from no feedback here, and scores every answer the same until "
            "its file stands in the server's agent.yaml: rewards: [{name: neural, options: {path: ...}}]"
        ]

    def _has_learnt_neural(self) -> bool:
        return bool(self._own("reward", NEURAL_REWARD)[0].get("path"))

    def values(self, request: TrainRequest) -> dict[str, Any]:
        """agent.yaml as plain values, without ``output``; secrets are references, as in the server's own."""
        base = self._base
        values = {key: base[key] for key in ("name", "model", "backend", "rollouts") if key in base}
        episodes = len(set(request.held_out_prompts)) or request.evaluation_episodes
        return values | {
            "seed": request.seed,
            "agent": self._agent(request),
            "environment": self._environment(request),
            "rewards": self._rewards(request),
            "sampling": self._sampling(request),
            "training": self._training(request),
            "evaluation": {
                **base.get("evaluation", {}),
                "episodes": episodes,
                "before": True,
                "after": True,
                "split": "held_out",
            },
        }

    def _agent(self, request: TrainRequest) -> dict[str, Any]:
        agent = dict(self._base.get("agent", {}))
        if request.strategy != COMPUTATIONAL:
            agent["strategy"] = self._use("strategy", NamedUse(name=request.strategy), "strategy")
        if request.tools is not None:
            agent["tools"] = [
                self._use("tool", tool, f"tools[{index}]") for index, tool in enumerate(request.tools)
            ]
        return agent

    def _environment(self, request: TrainRequest) -> dict[str, Any]:
        if request.environment is not None:
            return self._use("environment", request.environment, "environment")
        texts = {
            "prompts": list(dict.fromkeys(request.prompts)),
            "held_out": list(dict.fromkeys(request.held_out_prompts)),
            "replies": request.customer_replies,
        }
        return {"name": PROMPTS, "options": escape_references(texts)}

    def _rewards(self, request: TrainRequest) -> list[dict[str, Any]]:
        uses = [
            {**self._use("reward", reward, f"rewards[{index}]"), "weight": reward.weight}
            for index, reward in enumerate(request.rewards)
        ]
        uses = uses or self._strategy_rewards(request)
        if request.use_neural_rewards and NEURAL_REWARD not in [use["name"] for use in uses]:
            neural = self._use("reward", NamedUse(name=NEURAL_REWARD), "use_neural_rewards")
            if not self._has_learnt_neural():
                neural["options"] = {**neural.get("options", {}), "unready": "neutral"}
            uses.append({**neural, "weight": NEURAL_WEIGHT})
        return uses

    def _strategy_rewards(self, request: TrainRequest) -> list[dict[str, Any]]:
        own = REWARD_OF.get(request.strategy, request.strategy)
        names = (own,) if own in self._registry.names("reward") else GENERAL_REWARDS
        uses = [self._use("reward", NamedUse(name=name), "strategy") for name in names]
        if request.expected_responses:
            takers = [use for use in uses if self._takes_expected(use["name"])]
            if not takers:
                raise ApiError(
                    422,
                    "invalid_request",
                    f'the strategy "{request.strategy}" has no reward that compares with expected responses',
                    param=EXPECTED,
                )
            for use in takers:
                expected = {EXPECTED: escape_references(request.expected_responses)}
                use["options"] = {**use.get("options", {}), **expected}
        return [{**use, "weight": 1 / len(uses)} for use in uses]

    def _takes_expected(self, reward: str) -> bool:
        return EXPECTED in keys_at(options_model(self._registry.get("reward", reward)), ())

    def _sampling(self, request: TrainRequest) -> dict[str, Any]:
        # The policy gradient is biased unless samples come from the whole distribution.
        sampling = {**self._base.get("sampling", {}), "top_p": 1.0, "top_k": 0}
        sampling["temperature"] = self._config.sampling.temperature or 1.0
        if request.max_tokens is not None:
            sampling["max_tokens"] = request.max_tokens
        return sampling

    def _training(self, request: TrainRequest) -> dict[str, Any]:
        training = {
            **self._base.get("training", {}),
            "steps": request.num_iterations,
            "tasks_per_step": request.tasks_per_step,
            "group_size": request.group_size,
            "warm_start": None,
            "early_stopping": None,
            "world_size": 1,
            "accelerate": None,
        }
        if request.learning_rate is not None:
            training["learning_rate"] = request.learning_rate
        return training

    def _use(self, kind: Kind, asked: NamedUse, field: str) -> dict[str, Any]:
        """``asked`` as agent.yaml has it, on top of the options that the server gives the same."""
        if kind == "tool" and _short(asked.name) in RUN_COMMANDS - {
            _short(t.name) for t in self._config.agent.tools
        }:
            text = f'the tool "{asked.name}" runs commands: only the server\'s agent.yaml can name it'
            raise ApiError(422, "name_not_allowed", text, param=field)
        try:
            offer = self._registry.get(kind, asked.name)
            allowed = allowed_options(options_model(offer))
        except GrpoError as problem:
            raise ApiError(422, "unknown_name", str(problem), param=field) from None
        for option, value in asked.options.items():
            if option not in allowed:
                raise ApiError(
                    422,
                    "option_not_allowed",
                    f'the option "{option}" of the {kind} "{asked.name}" cannot be set by a request; it may '
                    f"set: {', '.join(sorted(allowed)) or 'none'}",
                    param=field,
                )
            require_small(option, value, field)
        own, written = self._own(kind, asked.name)
        try:
            validate_options(offer, {**own, **asked.options})
        except OptionsError as problem:
            raise ApiError(422, "invalid_option", f'{kind} "{asked.name}": {problem}', param=field) from None
        use: dict[str, Any] = {"name": asked.name}
        options = {**written, **escape_references(asked.options)}
        return {**use, "options": options} if options else use

    def _own(self, kind: Kind, name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """The options that the server's agent.yaml gives ``name``: as they are, and as they are written."""
        base = self._base
        places: dict[str, tuple[list[PluginUse | None], list[Any]]] = {
            "reward": (list(self._config.rewards), base["rewards"]),
            "tool": (list(self._config.agent.tools), base["agent"]["tools"]),
            "environment": (
                [use for _, use in self._config.played],
                base.get("environments") or [base["environment"]],
            ),
            "strategy": ([self._config.agent.strategy], [base["agent"]["strategy"]]),
        }
        for use, written in zip(*places[kind], strict=True):
            if use is not None and use.name == name:
                return use.options, written["options"]
        return {}, {}


def _short(name: str) -> str:
    return name.rpartition(":")[2]


def with_output(config: str, runs: Path) -> str:
    """``config``, the text of agent.yaml, with the directory of runs."""
    return config + to_yaml({"output": escape_references(str(runs))})


def default_config(name: str) -> LoadedConfig:
    """What a server without an agent.yaml trains: the embedded model."""
    from pathlib import Path

    from grpo_host.config.load import LoadedConfig, Origin
    from grpo_host.config.schema import AgentConfig

    config = AgentConfig.model_validate(
        {
            "name": name,
            "model": "smollm2-135m",
            "backend": "transformers",
            "environment": "support_desk",
            "rewards": list(GENERAL_REWARDS),
        }
    )
    origin = Origin(Path("agent.yaml"), {})
    return LoadedConfig(origin.path, config, origin, {})
