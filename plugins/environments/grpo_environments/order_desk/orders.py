"""Orders: their ids, their facts, and which facts a text states."""

from __future__ import annotations

import re
from random import Random

from grpo_environments.splits import belongs

FIELDS: dict[str, tuple[str, ...]] = {
    "item": ("lamp", "kettle", "backpack", "jacket", "keyboard", "camera", "mirror", "blender"),
    "status": ("processing", "packed", "shipped", "delayed", "paid"),
    "eta": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    "carrier": ("UPS", "FedEx", "DHL", "USPS"),
}
"""Field → the values that it may have."""

# No letter that looks like a digit.
_LETTERS = "ABCDEFGHJKLMNPQRTUVWXYZ"

_DENIAL = r"((?:\bnot|n't|\bnever)(?:\s+(?:yet|been|be|a|by|on|with))*\s+)?"
_NOT_FOUND = re.compile(
    r"\bnot? (?:find|found|locate|exist)|\bno (?:such )?(?:order|record)|n't (?:find|locate|exist|see|have)"
    r"|\bunable to (?:find|locate)|\bnot (?:in our|a valid)|\bcannot (?:find|locate|see)"
    r"|\bnot have (?:an?|any) (?:order|record)|\bno longer exists",
    re.IGNORECASE,
)


def new_id(rng: Random, held_out: bool) -> str:
    """An order id of the split, such as ``K482``: short, because a small model has to copy it."""
    while True:
        order = f"{rng.choice(_LETTERS)}{rng.randint(100, 999)}"
        if belongs(held_out, order):
            return order


def new_facts(rng: Random) -> dict[str, str]:
    """The facts of an order, drawn independently of its id and of each other."""
    return {field: rng.choice(values) for field, values in FIELDS.items()}


def stated(text: str, field: str) -> set[str]:
    """The values of ``field`` that ``text`` states, those that it denies ("not shipped") left out."""
    return {
        value
        for value in FIELDS[field]
        if any(not found[1] for found in re.finditer(_DENIAL + rf"\b{value}\b", text, re.IGNORECASE))
    }


def reads_out(text: str, field: str) -> bool:
    """Whether ``text`` reads the record out rather than answer a question about ``field``.

    It copies the tool's result, or states more than one fact that nobody asked for.
    """
    return "{" in text or sum(bool(stated(text, other)) for other in FIELDS if other != field) > 1


def says_not_found(text: str) -> bool:
    """Whether ``text`` says that there is no such order."""
    return bool(_NOT_FOUND.search(text.replace("\u2019", "'")))


def normalized(order_id: str) -> str:
    """``order_id`` as the desk knows it: without a number sign or spaces, in capitals."""
    return order_id.strip().lstrip("#").strip().upper()
