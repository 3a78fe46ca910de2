"""The assistant, around any chat model."""

from __future__ import annotations

from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable
from pydantic import BaseModel

from shop.orders import Customer, count_orders, lookup_order


class Answer(BaseModel):
    """What the web shop shows the customer."""

    order_id: str
    answer: str


def build(model: BaseChatModel) -> Runnable:
    return create_agent(
        model,
        [lookup_order, count_orders],
        system_prompt="You help customers with their orders.",
        response_format=ProviderStrategy(Answer),
        context_schema=Customer,
        name="shop",
    )
