"""Makes the parts that agent.yaml names: each from its plugin, with its options. Loads no model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_host.assembly.tools import build_tools
from grpo_host.backends.on_demand import OnDemandBackend
from grpo_host.plugins import Offer, Registry
from grpo_host.plugins.options import choose
from grpo_host.plugins.use import BackendUse
from grpo_host.rollouts.mixture import Mixture
from grpo_host.rollouts.scoring import WeightedReward
from grpo_sdk.backend import Backend, Capability, ModelSpec
from grpo_sdk.curriculum import Curriculum
from grpo_sdk.environment import Environment
from grpo_sdk.errors import PluginError
from grpo_sdk.rewards import GroupReward, Reward
from grpo_sdk.strategy import Strategy
from grpo_sdk.tools import ToolLike

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentConfig
    from grpo_host.plugins.use import ModelConfig, PluginUse


@dataclass(frozen=True)
class Parts:
    """The parts of a run; nothing is started yet."""

    rewards: list[WeightedReward]
    tools: list[ToolLike]
    """Those of agent.yaml that the strategy may use; an environment adds its own to an episode."""
    strategy: Strategy
    """With agent.yaml's system prompt after its own."""
    environment: Callable[[], Environment]
    """A fresh one a call."""
    backend: Backend
    environment_backends: tuple[Backend, ...] = ()
    """Those that environments have for themselves, such as a simulated user's."""


def build(config: AgentConfig, registry: Registry, *, progress: Callable[[str], None] | None = None) -> Parts:
    """Make every part.

    ``progress`` is told before a model is downloaded or converted. Raises ``PluginError``,
    ``ConfigError`` or ``ModelError``.
    """
    strategy = build_strategy(config, registry)
    own: list[Backend] = []

    def make(asked: BackendUse) -> Backend:
        own.append(make_chat_backend(asked, registry, progress=progress))
        return own[-1]

    environment = build_environment(config, registry, make)
    return Parts(
        rewards=build_rewards(config, registry, progress=progress),
        tools=build_tools(config, registry, strategy),
        strategy=strategy,
        environment=environment,
        backend=build_backend(config, registry, progress=progress),
        environment_backends=tuple(own),
    )


def build_rewards(
    config: AgentConfig, registry: Registry, *, progress: Callable[[str], None] | None = None
) -> list[WeightedReward]:
    """The rewards, in their order, each with the backends that it has for itself."""
    made = []
    for use in config.rewards:
        own: list[Backend] = []

        def make(asked: BackendUse, own: list[Backend] = own) -> Backend:
            own.append(make_chat_backend(asked, registry, progress=progress))
            return own[-1]

        reward = make_reward(use, registry, make)
        made.append(
            WeightedReward(
                use.label, reward, use.weight, use.seconds, tuple(own), frozenset(use.environments)
            )
        )
    return made


def make_reward(
    use: PluginUse, registry: Registry, make_backend: Callable[[BackendUse], Backend]
) -> Reward | GroupReward:
    """One reward; ``make_backend`` makes the backends that its options name."""
    offer, options = choose("reward", use, registry)
    for name, value in options.items():
        if isinstance(value, BackendUse):
            options[name] = make_backend(value)
    made = offer.make(**options)
    if not isinstance(made, Reward | GroupReward):
        raise _wrong(offer, made, "a Reward or a GroupReward")
    return made


def build_strategy(config: AgentConfig, registry: Registry) -> Strategy:
    """The strategy, or a plain one, with agent.yaml's system prompt after its own."""
    strategy = Strategy("plain")
    if config.agent.strategy is not None:
        offer, options = choose("strategy", config.agent.strategy, registry)
        strategy = offer.make(**options)
        if not isinstance(strategy, Strategy):
            raise _wrong(offer, strategy, "a Strategy")
    prompts = (strategy.system_prompt, config.agent.system_prompt)
    return replace(strategy, system_prompt="\n".join(text for text in prompts if text))


def stand_in(use: BackendUse) -> Backend:
    """What an environment that is only looked at has in place of a model of its own: it loads nothing."""
    from grpo_sdk.testing.scripted import ScriptedBackend

    return ScriptedBackend(ModelSpec(use.model.name))


def build_environment(
    config: AgentConfig, registry: Registry, make_backend: Callable[[BackendUse], Backend] = stand_in
) -> Callable[[], Environment]:
    """What makes a fresh environment for each episode, or a fresh mixture of them."""
    if config.environment is not None:
        return make_environment(config.environment, registry, make_backend)
    made = {use.label: make_environment(use, registry, make_backend) for use in config.environments}
    return partial(Mixture, made)


def make_environment(
    use: PluginUse, registry: Registry, make_backend: Callable[[BackendUse], Backend] = stand_in
) -> Callable[[], Environment]:
    """What makes a fresh environment of the one that ``use`` names.

    ``make_backend`` makes the backends that its options name: once, for all episodes.
    """
    offer, options = choose("environment", use, registry)
    backends = {name: make_backend(value) for name, value in options.items() if isinstance(value, BackendUse)}
    options = {name: value for name, value in options.items() if name not in backends}

    def make() -> Environment:
        # Copied: what one episode does to an option's list must not reach the next.
        made = offer.make(**copy.deepcopy(options), **backends)
        if not isinstance(made, Environment):
            raise _wrong(offer, made, "an Environment")
        return made

    return make


def build_curriculum(config: AgentConfig, registry: Registry | None) -> Curriculum | None:
    """What chooses the tasks of the next step, if anything does."""
    use = config.training.curriculum
    if use is None or registry is None:
        return None
    offer, options = choose("curriculum", use, registry)
    made = offer.make(**options)
    if not isinstance(made, Curriculum):
        raise _wrong(offer, made, "a Curriculum")
    return made


def environment_overrides(use: PluginUse, registry: Registry, method: str) -> bool:
    """Whether the environment that ``use`` names has a ``method`` of its own; told without making it."""
    factory = registry.get("environment", use.name).factory
    return getattr(factory, method, None) is not getattr(Environment, method)


def build_backend(
    config: AgentConfig, registry: Registry, *, progress: Callable[[str], None] | None = None
) -> Backend:
    """The backend, its model resolved to a directory if it loads one itself; not started."""
    use = config.backend
    if config.deterministic:
        use = use.model_copy(update={"options": {**use.options, "deterministic": True}})
    return _make_backend(use, config.model, registry, progress=progress)


def make_chat_backend(
    use: BackendUse,
    registry: Registry,
    *,
    resolve: bool = True,
    progress: Callable[[str], None] | None = None,
) -> OnDemandBackend:
    """A backend for a plugin's own use: it chats, and starts when first asked.

    Without ``resolve`` its model is not looked for, as is right for a check.
    """
    return OnDemandBackend(_make_backend(use, use.model, registry, resolve=resolve, progress=progress))


def _make_backend(
    use: PluginUse,
    model: ModelConfig,
    registry: Registry,
    *,
    resolve: bool = True,
    progress: Callable[[str], None] | None,
) -> Backend:
    offer, options = choose("backend", use, registry)
    path = hub_id = None
    if resolve and Capability.LOCAL_WEIGHTS in offer.capabilities:
        from grpo_host.models.resolve import resolve_model

        resolved = resolve_model(model.name, progress=progress)
        path, hub_id = resolved.path, resolved.hub_id
    made: Backend = offer.make(model_spec(model, path, hub_id), **options)
    return made


def model_spec(model: ModelConfig, path: Path | None, hub_id: str | None = None) -> ModelSpec:
    """``model`` as a backend takes it, its weights in the directory ``path``."""
    return ModelSpec(
        name=model.name,
        path=path,
        adapter=Path(model.adapter) if model.adapter else None,
        dtype=model.dtype,
        context=model.context,
        stop=tuple(model.stop),
        hub_id=hub_id,
        tool_format=model.tool_format,
    )


def _wrong(offer: Offer, made: object, wanted: str) -> PluginError:
    return PluginError(f"{offer} made {type(made).__name__}, not {wanted}")
