"""The scripted customer of the support desk: what he notices in a message, and what he answers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

_EMPATHY = re.compile(
    r"\b(?:sorry|apolog\w+|understand\w*|frustrat\w+|inconvenien\w+|appreciate|regret|i can imagine"
    r"|i hear you|upset\w*|disappoint\w+)\b"
)
_ACTION = re.compile(
    r"\b(?:i|we)(?:'ll| will| can|'m going to| am going to|'ve| have)\b(?!not|'t)"
    r"(?! (?:not|understand|imagine|see|hear|never|no)\b)|\blet me\b|\ballow me\b"
)
_NEXT = re.compile(
    r"\b(?:today|tomorrow|right away|right now|immediately|shortly|within|as soon as|hours?|minutes"
    r"|business days?|next step|first)\b"
)
_REFUSAL = re.compile(
    r"\b(?:can't|cannot|can not|won't|will not|unable to|not able to|nothing (?:i|we) can|not possible"
    r"|not my problem|not our problem)\b"
)

REPLIES: dict[str, dict[bool, tuple[str, ...]]] = {
    "content": {
        False: (
            "Thank you, that helps. What happens next with {thing}?",
            "Okay, that sounds good. How long will it take?",
            "Thanks for taking care of {thing}. Is there anything I need to do?",
        ),
        True: ("Alright, I feel better about {thing} now. When will I hear from you?",),
    },
    "no_action": {
        False: (
            "I appreciate that, but what are you going to do about {thing}?",
            "Kind words do not solve it. Can you do something about {thing}?",
        ),
        True: ("That is nice of you, but {thing} is still not sorted out. What now?",),
    },
    "no_empathy": {
        False: (
            "Fine, but this has cost me a lot of time. Do you even care?",
            "Okay. You do not seem to see how annoying this is for me.",
        ),
        True: ("You treat {thing} as if it were nothing. It is not nothing to me.",),
    },
    "impatient": {
        False: (
            "That does not help me. Can someone please deal with {thing}?",
            "I am getting angry. What about {thing}?",
            "Are you listening to me? I asked about {thing}.",
        ),
        True: ("I still have no answer about {thing}. Is anybody there?",),
    },
    "refused": {
        False: ("I do not accept that. Who can help me with {thing}?",),
        True: ("Then find somebody who is able to handle {thing}.",),
    },
    "repeated": {
        False: ("You already said that. What about {thing}?",),
        True: ("Those are the same words again. I need help with {thing}.",),
    },
}
_GIVES = {
    False: ("Sure, my {detail} is {value}.", "My {detail} is {value}."),
    True: ("Yes, here is my {detail}: {value}.",),
}


@dataclass(frozen=True, slots=True)
class Impression:
    """What the customer noticed in one message."""

    empathised: bool
    acted: bool
    concrete: bool
    """It asks for what is missing, or says when something will happen."""
    refused: bool
    repeated: bool

    @property
    def satisfaction(self) -> float:
        """From 0 to 1."""
        if self.repeated:
            return 0.0
        gained = 0.4 * self.empathised + 0.4 * self.acted + 0.2 * self.concrete
        return max(0.0, gained - 0.4 * self.refused)

    @property
    def reaction(self) -> str:
        """Which of ``REPLIES`` it calls for."""
        if self.repeated:
            return "repeated"
        if self.refused:
            return "refused"
        if self.empathised and self.acted:
            return "content"
        if self.empathised:
            return "no_action"
        return "no_empathy" if self.acted else "impatient"


class Customer:
    """One customer of one episode; the same task meets the same customer."""

    def __init__(self, thing: str, detail: str, value: str, *, held_out: bool, seed: int) -> None:
        self._thing = thing
        self._detail = detail
        self._value = value
        self._held_out = held_out
        self._random = Random(seed)
        self._gave = False
        self._asks = re.compile(rf"\b(?:{detail}|{detail.split()[-1]})\b|\border id\b")

    def notice(self, text: str, earlier: Sequence[str]) -> Impression:
        """What ``text`` is like, given what the agent said before."""
        said = " ".join(text.lower().replace("\u2019", "'").split())
        asked = not self._gave and bool(self._asks.search(said))
        return Impression(
            empathised=bool(_EMPATHY.search(said)),
            acted=bool(_ACTION.search(said)),
            concrete=asked or bool(_NEXT.search(said)),
            refused=bool(_REFUSAL.search(said)),
            repeated=any(said == " ".join(old.lower().split()) for old in earlier),
        )

    def reply(self, text: str, impression: Impression) -> str:
        """The customer's next message."""
        answer = self._pick(REPLIES[impression.reaction]).format(thing=self._thing)
        if self._gave or not self._asks.search(text.lower()):
            return answer
        self._gave = True
        given = self._pick(_GIVES).format(detail=self._detail, value=self._value)
        return given if impression.reaction == "content" else f"{given} {answer}"

    def _pick(self, choices: dict[bool, tuple[str, ...]]) -> str:
        return self._random.choice(choices[self._held_out])
