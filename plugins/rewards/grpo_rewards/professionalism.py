"""Reward professional writing. A word list and a few marks of form."""

from __future__ import annotations

import re

from grpo_rewards.texts import mean
from grpo_rewards.wordlists import WordList, WordListReward

_SHOUTED = re.compile(r"\b[A-Z]{4,}\b")
_EXCITED = re.compile(r"[!?]{2,}|\.{4,}")


class ProfessionalismReward(WordListReward):
    """Courtesy by word list, and tidy sentences, in [0, 1]; slang and rudeness halve it.

    English only. It knows manners, not competence: a polite and useless reply scores well, and
    so does one that is polite about something false.
    """

    name = "professionalism"
    lists = (
        WordList(
            "courtesy",
            0.35,
            "please, thank you, thanks for, you're welcome, happy to, glad to, pleased to,"
            " certainly, of course, appreciate*, kindly, apolog*, i'm sorry, i am sorry,"
            " would you, could you, may i, welcome, sincerely, kind regards",
        ),
        WordList(
            "service",
            0.25,
            "assist*, help you, help with, support team, our team, your order, your account,"
            " your request, your concern*, your patience, your inquiry, your experience, resolve*,"
            " ensure, provide*, information, confirm*, inconvenience, customer*, service",
        ),
    )
    faults = WordList(
        "faults",
        0.0,
        "lol, lmao, wtf, omg, dude, bro, gonna, wanna, gotta, yeah, nope, nah, sucks, crap, damn,"
        " hell, shit*, fuck*, stupid, idiot*, dumb, shut up, whatever, ur, pls, thx, hey there,"
        " not my problem, deal with it, your fault, calm down, who cares",
    )

    def form(self, text: str) -> dict[str, tuple[float, float]]:
        stripped = text.strip()
        marks = (
            not stripped[0].isalpha() or stripped[0].isupper(),
            stripped.rstrip("\"')")[-1:] in {".", "!", "?"},
            not _SHOUTED.search(stripped),
            not _EXCITED.search(stripped),
        )
        return {"form": (0.4, mean([float(mark) for mark in marks]))}
