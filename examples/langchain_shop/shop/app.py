"""The assistant, around any chat model."""

from __future__ import annotations

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable

from shop.orders import Customer, count_orders, lookup_order


def build(model: BaseChatModel) -> Runnable:
    return create_agent(
        model,
        [lookup_order, count_orders],
        system_prompt="You help customers with their orders.",
        context_schema=Customer,
        name="shop",
    )
