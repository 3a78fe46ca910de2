"""The built-in strategies, as a plugin."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from grpo_sdk.hooks import StrategyFactory, hookimpl
from grpo_sdk.strategy import Strategy


@hookimpl
def grpo_strategies() -> Mapping[str, StrategyFactory]:
    return {"plain": partial(Strategy, "plain")}
