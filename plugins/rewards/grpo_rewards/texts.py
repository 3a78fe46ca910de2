"""Read what the policy said, and measure how far it is ordinary prose. Independent of any one reward."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from grpo_sdk.trajectory import Trajectory

LONGEST = 20_000
"""Characters of a message that are read: a runaway message must not cost seconds."""

_WORD = re.compile(r"[^\W_]+(?:'[^\W\d_]+)*")


def said(trajectory: Trajectory) -> list[str]:
    """What the policy said to the user, message by message; messages that only call tools are left out."""
    texts = (message["content"][:LONGEST] for message in trajectory.policy_messages)
    return [text.replace("\u2019", "'") for text in texts if text.strip()]


def words(text: str) -> list[str]:
    """The words of ``text``, in lower case."""
    return _WORD.findall(text.lower())


_COMMON = frozenset(
    words(
        "a about all also am an and any are as at be been but by can could did do for from get had has"
        " have help how i i'd i'll i'm if in is it it's let may me must my no not of on or our out"
        " please she so some that the their them then there these they this to up us was we we'll"
        " we're were what when which who will with would you you're your"
    )
)
"""Words that hold English sentences together: about half of any real text."""


def mean(values: Sequence[float]) -> float:
    """The mean; 0.0 of nothing."""
    return sum(values) / len(values) if values else 0.0


def freshness(text: str, earlier: Sequence[str] = ()) -> float:
    """How far ``text`` repeats neither itself nor ``earlier`` messages, in [0, 1]; 1.0 for ordinary text."""
    pairs = list(pairwise(words(text)))
    if not pairs:
        return 1.0
    known = {pair for message in earlier for pair in pairwise(words(message))}
    distinct = len(set(pairs)) / len(pairs)
    repeated = sum(pair in known for pair in pairs) / len(pairs)
    return min(1.0, distinct / 0.8) ** 2 * min(1.0, 2.0 * (1.0 - repeated))


def fluency(text: str, earlier: Sequence[str] = ()) -> float:
    """How far ``text`` is prose worth reading, in [0, 1]; 1.0 for any ordinary reply.

    Below 1.0: fewer than six words, repeated phrases, lists of words without the small words
    that make sentences of them, and text that ``earlier`` messages already contain.
    """
    spoken = words(text)
    if not spoken:
        return 0.0
    common = sum(word in _COMMON for word in spoken) / len(spoken)
    return min(1.0, len(spoken) / 6) * min(1.0, common / 0.3) * freshness(text, earlier)
