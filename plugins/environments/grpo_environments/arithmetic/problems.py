"""Generates arithmetic problems whose numbers and wordings differ between splits."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from grpo_environments.splits import belongs

EXPRESSIONS = ("{a} + {b}", "{a} - {b}", "{a} * {b}", "{ab} / {b}", "{a} * {b} + {c}", "{a} + {b} - {c}")
"""Forms of problems; ``ab`` is a * b, so that divisions have whole results."""

_PLAIN = {
    False: ("What is {e}?", "Calculate {e}.", "{e} = ?", "How much is {e}?", "Compute {e}."),
    True: ("Please work out {e}.", "Can you tell me what {e} makes?", "I need the result of {e}."),
}

_STORIES: dict[bool, dict[str, tuple[str, ...]]] = {
    False: {
        "{a} + {b}": (
            "{name} has {a} {things} and buys {b} more. How many {things} does {name} have now?",
            "There are {a} {things} in one bag and {b} in another. How many {things} are there in all?",
        ),
        "{a} - {b}": (
            "{name} has {a} {things} and gives away {b}. How many {things} are left?",
            "A shop has {a} {things} and sells {b}. How many {things} remain?",
        ),
        "{a} * {b}": (
            "A box holds {a} {things}. How many {things} are in {b} boxes?",
            "{name} buys {b} bags with {a} {things} each. How many {things} is that?",
        ),
        "{ab} / {b}": (
            "{name} shares {ab} {things} equally among {b} friends. How many does each get?",
            "{ab} {things} are packed into {b} equal boxes. How many {things} are in each box?",
        ),
        "{a} * {b} + {c}": (
            "{name} has {b} boxes of {a} {things} and {c} loose ones. How many {things} is that in all?",
        ),
        "{a} + {b} - {c}": (
            "{name} has {a} {things}, gets {b} more and loses {c}. How many {things} are left?",
        ),
    },
    True: {
        "{a} + {b}": (
            "On Monday {name} sold {a} {things}, on Tuesday {b}. How many were sold on both days?",
        ),
        "{a} - {b}": ("Of {a} {things}, {name} has already used {b}. How many can still be used?",),
        "{a} * {b}": ("Each of {b} shelves carries {a} {things}. How many {things} do they carry together?",),
        "{ab} / {b}": ("{b} teams split {ab} {things} evenly. How many {things} does a team receive?",),
        "{a} * {b} + {c}": (
            "Every one of {b} crates contains {a} {things}; {name} adds {c} more. What is the total?",
        ),
        "{a} + {b} - {c}": ("{name} picks {a} {things}, then {b}, and eats {c}. How many does {name} keep?",),
    },
}
_NAMES = {False: ("Anna", "Ben", "Carla", "David", "Eva", "Farid"), True: ("Greta", "Hugo", "Ines")}
_THINGS = {
    False: ("apples", "books", "pens", "stamps", "eggs", "coins"),
    True: ("tickets", "bricks", "shells"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem and its result."""

    question: str
    expression: str
    answer: int


def new_problem(rng: Random, held_out: bool, largest: int, word_problems: float) -> Problem:
    """A problem of the split with numbers from 2 to ``largest``; no result is negative."""
    while True:
        form = rng.choice(EXPRESSIONS)
        a, b, c = (rng.randint(2, largest) for _ in range(3))
        if "/" in form:
            a = rng.randint(2, max(2, largest // 2))
            b = rng.randint(2, 12)
        answer = _result(form, a, b, c)
        if answer >= 0 and belongs(held_out, form, a, b, c if "{c}" in form else 0):
            break
    numbers = {"a": a, "b": b, "c": c, "ab": a * b}
    expression = form.format(**numbers)
    if rng.random() < word_problems:
        story = rng.choice(_STORIES[held_out][form])
        question = story.format(
            **numbers, name=rng.choice(_NAMES[held_out]), things=rng.choice(_THINGS[held_out])
        )
    else:
        question = rng.choice(_PLAIN[held_out]).format(e=expression)
    return Problem(question, expression, answer)


def _result(form: str, a: int, b: int, c: int) -> int:
    return {
        "{a} + {b}": a + b,
        "{a} - {b}": a - b,
        "{a} * {b}": a * b,
        "{ab} / {b}": a,
        "{a} * {b} + {c}": a * b + c,
        "{a} + {b} - {c}": a + b - c,
    }[form]
