"""Record training steps as metrics: pass a step's line of metrics.jsonl to ``Monitoring``.

The names of the numbers that every run has follow NeMo RL, the only published convention of RL
training on OpenTelemetry; all others are ``rl.`` and their name in metrics.jsonl. The step is no
attribute: it would make each step a series of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from grpo_host.telemetry.monitoring import Monitoring
from grpo_sdk.hooks import hookimpl

NAMES = {
    "reward": "rl.reward.mean",
    "reward_std": "rl.reward.std",
    "kl": "rl.kl.divergence",
    "loss": "rl.policy.loss",
    "entropy": "rl.entropy",
    "grad_norm": "rl.grad_norm",
    "learning_rate": "rl.learning_rate",
}
"""Name in metrics.jsonl → name of the metric."""


class StepMetrics:
    """A plugin that records each training step.

    ``registry.register(StepMetrics(monitoring), "monitoring")`` registers it beside the host's own.
    """

    def __init__(self, monitoring: Monitoring) -> None:
        self._monitoring = monitoring

    @hookimpl
    def grpo_step_finished(self, step: int, metrics: Mapping[str, Any]) -> None:
        self._monitoring.record("rl.step", step)
        for name, value in metrics.items():
            if name in ("step", "time") or isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if math.isfinite(value):  # TRL reports NaN for what a step had none of
                self._monitoring.record(metric_name(name), value)


def metric_name(key: str) -> str:
    """The name of the metric for a key of metrics.jsonl."""
    return NAMES.get(key) or "rl." + re.sub(r"[^A-Za-z0-9_./-]", "_", key).replace("/", ".")
