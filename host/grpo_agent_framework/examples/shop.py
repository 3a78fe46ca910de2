"""The shop that the examples' agents serve: its orders, the tools on them, and how its people answer."""

from __future__ import annotations

from grpo_sdk.tools import cacheable

ORDERS = {
    "1042": "shipped on Friday, delayed by the carrier, expected tomorrow",
    "1043": "being packed, leaves the warehouse today",
    "1044": "delivered on Monday",
}

ARTICLES = {
    "return": "Items can be returned within 30 days. A return label is sent by e-mail.",
    "refund": "Refunds reach the account within five working days after the item has arrived.",
    "password": "Choose 'Forgotten password' on the sign-in page; the link is valid for an hour.",
    "warranty": "All devices have a warranty of two years.",
}

DIALOGUES = [
    {
        "id": "cs_001",
        "content": "My order has not arrived yet",
        "category": "order_issues",
        "expected_response": "I'm sorry that your order is late. Let me check its status for you right away. "
        "Could you tell me the order number?",
    },
    {
        "id": "cs_002",
        "content": "I want to return an item",
        "category": "returns",
        "expected_response": "Of course, I'll help you with the return. You can send it back within 30 days; "
        "I will e-mail you a label now.",
    },
    {
        "id": "cs_003",
        "content": "I cannot sign in to my account",
        "category": "account",
        "expected_response": "I understand how annoying that is. Let me send you a link to choose a new "
        "password; it is valid for an hour.",
    },
    {
        "id": "cs_004",
        "content": "You charged me twice",
        "category": "billing",
        "expected_response": "I apologise for that. I will check both charges now and return the second one "
        "within five working days.",
    },
]


def check_order_status(order_id: str) -> str:
    """Look up where an order is.

    Args:
        order_id: The number of the order, such as 1042.
    """
    found = ORDERS.get(order_id.strip().lstrip("#"))
    return f"Order {order_id}: {found}." if found else f"There is no order {order_id}."


@cacheable(ttl=3600)
def search_help(topic: str) -> str:
    """Search the help pages.

    Args:
        topic: What the customer asks about, in a word or two.
    """
    found = [text for word, text in ARTICLES.items() if word in topic.lower()]
    return " ".join(found) or f"The help pages say nothing about {topic}."
