"""The built-in strategies, as a plugin."""

from __future__ import annotations

from collections.abc import Mapping

from grpo_sdk.hooks import StrategyFactory, hookimpl
from grpo_sdk.strategy import Strategy
from grpo_strategies.sales import sales
from grpo_strategies.service import advanced_customer_service, customer_service
from grpo_strategies.support import technical_support
from grpo_strategies.tutoring import tutoring


def plain() -> Strategy:
    """Says nothing about itself: the model as it was trained, and what the user adds."""
    return Strategy("plain")


@hookimpl
def grpo_strategies() -> Mapping[str, StrategyFactory]:
    return {
        "plain": plain,
        "customer_service": customer_service,
        "advanced_customer_service": advanced_customer_service,
        "technical_support": technical_support,
        "sales": sales,
        "tutoring": tutoring,
    }
