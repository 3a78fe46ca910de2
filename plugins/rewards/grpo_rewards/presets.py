"""Ready-made multi-objective rewards for kinds of work. Their weights are options.

Safety is a gate in all of them: an unsafe reply is worth nothing, however helpful it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from grpo_rewards.action_orientation import ActionOrientationReward
from grpo_rewards.diagnosis import DiagnosisReward
from grpo_rewards.discovery import DiscoveryReward
from grpo_rewards.empathy import EmpathyReward
from grpo_rewards.guidance import GuidanceReward
from grpo_rewards.length import LengthReward
from grpo_rewards.multi_objective import Component, MultiObjectiveReward
from grpo_rewards.professionalism import ProfessionalismReward
from grpo_rewards.safety import SafetyReward
from grpo_rewards.similarity import SimilarityReward
from grpo_sdk.embedder import Embedder
from grpo_sdk.errors import did_you_mean
from grpo_sdk.rewards import Reward

BY_WORDS: dict[str, Callable[[], Reward]] = {
    "empathy": EmpathyReward,
    "professionalism": ProfessionalismReward,
    "action_orientation": ActionOrientationReward,
    "diagnosis": DiagnosisReward,
    "discovery": DiscoveryReward,
    "guidance": GuidanceReward,
}

CUSTOMER_SERVICE = {
    "empathy": 0.25,
    "professionalism": 0.15,
    "action_orientation": 0.25,
    "similarity": 0.1,
    "safety": 0.2,
    "length": 0.05,
}
TECHNICAL_SUPPORT = {
    "diagnosis": 0.35,
    "action_orientation": 0.15,
    "professionalism": 0.1,
    "similarity": 0.15,
    "safety": 0.2,
    "length": 0.05,
}
SALES = {
    "discovery": 0.4,
    "professionalism": 0.15,
    "empathy": 0.05,
    "similarity": 0.15,
    "safety": 0.2,
    "length": 0.05,
}
TUTORING = {
    "guidance": 0.45,
    "empathy": 0.05,
    "professionalism": 0.05,
    "similarity": 0.2,
    "safety": 0.2,
    "length": 0.05,
}


def customer_service(
    *,
    expected_responses: Sequence[str] = (),
    weights: Mapping[str, float] | None = None,
    embedder: Embedder | None = None,
) -> MultiObjectiveReward:
    """Empathy, professionalism, action, safety, length, and likeness to ``expected_responses``.

    ``weights`` changes weights by name; 0 leaves a component out. Without expected responses there
    is nothing to be like, and the other components share its weight. ``embedder``: the host gives the
    installed sentence model; without one, likeness and safety go by words.
    """
    return _preset(
        CUSTOMER_SERVICE, expected_responses, weights, embedder, LengthReward(low=12, high=80, longest=160)
    )


def technical_support(
    *,
    expected_responses: Sequence[str] = (),
    weights: Mapping[str, float] | None = None,
    embedder: Embedder | None = None,
) -> MultiObjectiveReward:
    """Diagnosis, action, professionalism, safety, length, likeness: options as of ``customer_service``."""
    return _preset(
        TECHNICAL_SUPPORT, expected_responses, weights, embedder, LengthReward(low=15, high=150, longest=300)
    )


def sales(
    *,
    expected_responses: Sequence[str] = (),
    weights: Mapping[str, float] | None = None,
    embedder: Embedder | None = None,
) -> MultiObjectiveReward:
    """Discovery, professionalism, empathy, safety, length, likeness: options as of ``customer_service``."""
    return _preset(SALES, expected_responses, weights, embedder, LengthReward(low=12, high=100, longest=200))


def tutoring(
    *,
    expected_responses: Sequence[str] = (),
    weights: Mapping[str, float] | None = None,
    embedder: Embedder | None = None,
) -> MultiObjectiveReward:
    """Guidance, empathy, professionalism, safety, length, likeness: options as of ``customer_service``."""
    return _preset(
        TUTORING, expected_responses, weights, embedder, LengthReward(low=12, high=120, longest=240)
    )


def _preset(
    defaults: Mapping[str, float],
    expected: Sequence[str],
    changed: Mapping[str, float] | None,
    embedder: Embedder | None,
    length: LengthReward,
) -> MultiObjectiveReward:
    """Raises ``ValueError`` for a weight of a component that the preset does not have."""
    for name in changed or {}:
        if name not in defaults:
            known = list(defaults)
            hint = did_you_mean(name, known)
            raise ValueError(f'weights: no component "{name}".{hint} There are: {", ".join(known)}')
    weights = {**defaults, **(changed or {})}
    if not expected:
        if changed and changed.get("similarity"):
            raise ValueError("weights: similarity needs expected_responses to compare with")
        del weights["similarity"]
    made: dict[str, Callable[[], Reward]] = {
        **BY_WORDS,
        "length": lambda: length,
        "safety": lambda: SafetyReward(embedder=embedder),
        "similarity": lambda: SimilarityReward(expected_responses=expected, embedder=embedder),
    }
    return MultiObjectiveReward(
        [
            Component(name, made[name](), weight, gate=name == "safety")
            for name, weight in weights.items()
            if weight
        ]
    )
