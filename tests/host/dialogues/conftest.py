from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return [
        {
            "id": "cs_001",
            "content": "I need help with my order",
            "category": "orders",
            "expected_response": "I'll help you check your order status",
        },
        {
            "id": "cs_002",
            "content": "I want to return an item",
            "category": "returns",
            "expected_response": "I'll be happy to help you with the return process.",
        },
        {"id": "cs_003", "content": "My parcel arrived broken", "category": "returns"},
        {"id": "cs_004", "content": "How do I reset my password?", "category": "account", "tags": ["login"]},
    ]
