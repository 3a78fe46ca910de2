"""The shop that the examples' agents serve: its orders, the tools on them, and how its people answer."""

from __future__ import annotations

import json

from grpo_host.cache import cacheable

ORDERS = {
    "K111": {"item": "lamp", "status": "delayed", "eta": "Friday", "carrier": "DHL"},
    "M249": {"item": "kettle", "status": "packed", "eta": "Monday", "carrier": "UPS"},
    "B103": {"item": "jacket", "status": "shipped", "eta": "Tuesday", "carrier": "FedEx"},
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


async def lookup_order(order_id: str) -> str:
    """Look up an order: its item, status, eta (day of arrival) and carrier.

    Args:
        order_id: The order number, such as K482.
    """
    # The tool of the environment order_desk, word for word: what a run learnt there is of use here.
    return json.dumps(ORDERS.get(order_id.strip().lstrip("#").upper(), {"error": "order not found"}))


@cacheable(ttl=3600)
def search_help(topic: str) -> str:
    """Search the help pages.

    Args:
        topic: What the customer asks about, in a word or two.
    """
    found = [text for word, text in ARTICLES.items() if word in topic.lower()]
    return " ".join(found) or f"The help pages say nothing about {topic}."
