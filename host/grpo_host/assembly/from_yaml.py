"""Makes the parts that agent.yaml names: each from its plugin, with its options. Loads no model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from grpo_host.assembly.answers import answers_of
from grpo_host.assembly.tools import build_tools
from grpo_host.backends.on_demand import ChatThroughTokens, OnDemandBackend
from grpo_host.plugins import Offer
from grpo_host.recorded.answers import Answers
from grpo_host.recorded.backend import RecordedBackend, is_hosted
from grpo_host.rollouts.mixture import Mixture
from grpo_host.rollouts.scoring import RewardSet, WeightedReward
from grpo_host.utils.validation import say_location
from grpo_sdk.backend import Backend, Capability, ModelSpec
from grpo_sdk.curriculum import Curriculum
from grpo_sdk.environment import Environment
from grpo_sdk.errors import PluginError
from grpo_sdk.rewards import GroupReward, Reward
from grpo_sdk.strategy import Strategy
from grpo_sdk.tools import ToolLike

if TYPE_CHECKING:
    from grpo_host.config.resolve import ResolvedConfig
    from grpo_host.plugins import Registry
    from grpo_host.plugins.options import ResolvedUse
    from grpo_host.plugins.use import BackendUse, ModelConfig, PluginUse
    from grpo_host.utils.validation import Location


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
    answers: Answers | None = None
    """What records, or replays, what tools, judges and hosted models answer."""


def build(resolved: ResolvedConfig, *, progress: Callable[[str], None] | None = None) -> Parts:
    """Make every part that is not made yet; whoever has them closes them.

    ``progress`` is told before a model is downloaded or converted. Raises ``PluginError``,
    ``ConfigError`` or ``ModelError``.
    """
    strategy = build_strategy(resolved)
    own: list[Backend] = []
    answers = answers_of(resolved)

    def make(location: Location) -> Backend:
        own.append(OnDemandBackend(_own_backend(resolved, location, progress=progress)))
        return own[-1]

    environment = build_environment(resolved, make)
    backend = build_backend(resolved, progress=progress)
    if answers is not None and is_hosted(backend):
        backend = RecordedBackend(backend, answers, "the model")
    parts = Parts(
        rewards=build_rewards(resolved, progress=progress),
        tools=build_tools(resolved, strategy),
        strategy=strategy,
        environment=environment,
        backend=backend,
        environment_backends=tuple(own),
        answers=answers,
    )
    resolved.closing.pop_all()
    return parts


def build_rewards(
    resolved: ResolvedConfig, *, progress: Callable[[str], None] | None = None
) -> list[WeightedReward]:
    """The rewards, in their order, each with the backends that it has for itself, and their models."""
    rewards = [build_reward(resolved, index) for index in range(len(resolved.config.rewards))]
    for index, item in enumerate(rewards):
        location = ("rewards", index)
        for name, backend in zip(resolved.use(location).backends, item.backends, strict=True):
            own = (*location, "options", name)
            if answers_of(resolved) or Capability.LOCAL_WEIGHTS in resolved.use(own).offer.capabilities:
                cast("OnDemandBackend", backend).ask(_own_backend(resolved, own, progress=progress))
    return rewards


def build_reward(resolved: ResolvedConfig, index: int) -> WeightedReward:
    """One reward; the models of its own backends are not looked for yet."""
    return resolved.once(("rewards", index), lambda: _reward(resolved, index))


def _reward(resolved: ResolvedConfig, index: int) -> WeightedReward:
    location, use = ("rewards", index), resolved.config.rewards[index]
    chosen = resolved.use(location)
    own = {
        name: OnDemandBackend(_own_backend(resolved, (*location, "options", name), find_model=False))
        for name in chosen.backends
    }
    made = chosen.offer.make(**{**chosen.arguments(), **own})
    if not isinstance(made, Reward | GroupReward):
        raise _wrong(chosen.offer, made, "a Reward or a GroupReward")
    item = WeightedReward(
        use.label, made, use.weight, use.seconds, tuple(own.values()), frozenset(use.environments)
    )
    resolved.closing.callback(RewardSet([item]).close)
    return item


def build_strategy(resolved: ResolvedConfig) -> Strategy:
    """The strategy, or a plain one, with agent.yaml's system prompt after its own."""
    strategy = own_strategy(resolved) or Strategy("plain")
    prompts = (strategy.system_prompt, resolved.config.agent.system_prompt)
    return replace(strategy, system_prompt="\n".join(text for text in prompts if text))


def own_strategy(resolved: ResolvedConfig) -> Strategy | None:
    """The strategy as its plugin makes it, if agent.yaml names one."""
    named = resolved.config.agent.strategy is not None
    return _made(resolved, ("agent", "strategy"), Strategy) if named else None


def build_curriculum(resolved: ResolvedConfig) -> Curriculum | None:
    """What chooses the tasks of the next step, if anything does."""
    named = resolved.config.training.curriculum is not None
    return _made(resolved, ("training", "curriculum"), Curriculum) if named else None


def _made(resolved: ResolvedConfig, location: Location, kind: Any) -> Any:
    def make() -> Any:
        chosen = resolved.use(location)
        made = chosen.offer.make(**chosen.arguments())
        if not isinstance(made, kind):
            raise _wrong(chosen.offer, made, f"a {kind.__name__}")
        return made

    return resolved.once(location, make)


def build_environment(
    resolved: ResolvedConfig, make_backend: Callable[[Location], Backend] | None = None
) -> Callable[[], Environment]:
    """What makes a fresh environment for each episode, or a fresh mixture of them."""
    made = {
        use.label: make_environment(resolved, location, make_backend)
        for location, use in resolved.config.played
    }
    return partial(Mixture, made) if resolved.config.environments else next(iter(made.values()))


def make_environment(
    resolved: ResolvedConfig, location: Location, make_backend: Callable[[Location], Backend] | None = None
) -> Callable[[], Environment]:
    """What makes a fresh environment of the one at ``location``.

    ``make_backend`` makes the backends that its options name: once, for all episodes. Without it, the
    environment is only looked at: in their place are backends that load nothing.
    """
    chosen = resolved.use(location)
    backends = {
        name: make_backend((*location, "options", name)) if make_backend else _stand_in(use)
        for name, use in chosen.backends.items()
    }
    options = {name: value for name, value in chosen.arguments().items() if name not in backends}

    def make() -> Environment:
        # Copied: what one episode does to an option's list must not reach the next.
        made = chosen.offer.make(**copy.deepcopy(options), **backends)
        if not isinstance(made, Environment):
            raise _wrong(chosen.offer, made, "an Environment")
        return made

    return make


def _stand_in(use: BackendUse) -> Backend:
    from grpo_sdk.testing.scripted import ScriptedBackend

    return ScriptedBackend(ModelSpec(use.model.name))


def environment_overrides(use: PluginUse, registry: Registry, method: str) -> bool:
    """Whether the environment that ``use`` names has a ``method`` of its own; told without making it."""
    factory = registry.get("environment", use.name).factory
    return getattr(factory, method, None) is not getattr(Environment, method)


def build_backend(resolved: ResolvedConfig, *, progress: Callable[[str], None] | None = None) -> Backend:
    """The backend, its model resolved to a directory if it loads one itself; not started."""
    config = resolved.config
    more = {"deterministic": True} if config.deterministic else {}
    return make_backend(resolved.use(("backend",)), config.model, progress=progress, **more)


def _own_backend(
    resolved: ResolvedConfig,
    location: Location,
    *,
    find_model: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Backend:
    """The one that a reward or environment has for itself; the option at ``location`` names it."""
    answers = answers_of(resolved) if find_model else None
    model, find_model = resolved.backend_use(location).model, find_model and not (answers and answers.replays)
    made = make_backend(resolved.use(location), model, find_model=find_model, progress=progress)
    if answers is None:
        return made
    chats = made if Capability.CHAT in made.capabilities else ChatThroughTokens(made)
    return RecordedBackend(chats, answers, say_location(location))


def make_backend(
    chosen: ResolvedUse,
    model: ModelConfig,
    *,
    find_model: bool = True,
    progress: Callable[[str], None] | None = None,
    **more: Any,
) -> Backend:
    """The backend on ``model``; without ``find_model`` it can only be looked at. It is not started."""
    path = hub_id = None
    if find_model and Capability.LOCAL_WEIGHTS in chosen.offer.capabilities:
        from grpo_host.models.resolve import resolve_model

        found = resolve_model(model.name, progress=progress)
        path, hub_id = found.path, found.hub_id
    made: Backend = chosen.offer.make(model_spec(model, path, hub_id), **{**chosen.arguments(), **more})
    if not isinstance(getattr(made, "model", None), ModelSpec):
        raise PluginError(f"{chosen.offer}: its __init__ does not call super().__init__(model)")
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
