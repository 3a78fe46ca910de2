"""What the assistant can do for a customer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langchain.tools import ToolRuntime, tool


@dataclass
class Customer:
    """Who is signed in, as the web shop knows him."""

    orders: dict[str, dict[str, Any]]
    """Order number → the order's facts."""


@tool
def lookup_order(order_id: str, runtime: ToolRuntime[Customer]) -> dict[str, Any]:
    """Look up an order: its item, status, eta (day of arrival) and carrier.

    Args:
        order_id: The order number, such as K482.
    """
    order = order_id.strip().lstrip("#").strip().upper()
    return runtime.context.orders.get(order, {"error": "order not found"})


@tool
def count_orders(runtime: ToolRuntime[Customer]) -> dict[str, Any]:
    """Tell how many orders the customer has."""
    return {"orders": len(runtime.context.orders)}
