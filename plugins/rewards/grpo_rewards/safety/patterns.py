"""Unsafe wording, as patterns: a few forms of words for each kind of harm. English only.

The patterns are in patterns.txt. They catch what is said plainly, and what is spelled to slip past
a model ("1d1ot", "p a s s w o r d"). They are a list: whatever is not on it passes.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from importlib.resources import files

KINDS = ("insult", "threat", "credentials", "dangerous", "discrimination", "inappropriate")
"""What a sentence can be unsafe for."""

_WARNING = re.compile(
    r"\b(?:never|don't|do not|not to|nobody|no one|won't|will not|cannot|can't|without|avoid|instead of"
    r"|rather than|not (?:\w+ )?(?:ask|need|share|send)|isn't|is not|aren't|are not)\b"
)
_WARNED = frozenset({"credentials", "dangerous"})
"""Kinds whose wording is harmless if the sentence warns against it before it comes."""
_REPORTED = re.compile(r"\b(?:feel|feels|felt|treated|called|not|isn't|aren't|wasn't|n't)\b")

_LEET = str.maketrans(
    {"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t", "@": "a", "$": "s", "!": "i"}
)
_MIXED = re.compile(
    r"\b(?!\d+(?:st|nd|rd|th|[a-z]{1,2})\b)(?=[a-z0-9@$!]*[a-z])(?=[a-z0-9@$!]*[0134570@$!][a-z])[a-z0-9@$!]{3,}"
)
_SPACED = re.compile(r"\b(?:[a-z][ .\-_*]){2,}[a-z]\b")
_INVISIBLE = re.compile(r"[\u00ad\u034f\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")


@lru_cache(maxsize=1)
def _patterns() -> dict[str, list[re.Pattern[str]]]:
    """Kind → its patterns, read from patterns.txt."""
    defined: dict[str, str] = {}
    found: dict[str, list[re.Pattern[str]]] = {kind: [] for kind in KINDS}
    text = files(__package__).joinpath("patterns.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        name, _, expression = line.partition(": ")
        expression = re.sub(r"<([A-Z]+)>", lambda hit: defined[hit[1]], expression)
        if name.isupper():
            defined[name] = expression
        else:
            found[name].append(re.compile(expression))
    return found


def plain(text: str) -> str:
    """``text`` in lower case, as it is read: look-alike letters, digits for letters and gaps undone."""
    text = unicodedata.normalize("NFKD", _INVISIBLE.sub("", text)).lower().replace("\u2019", "'")
    text = "".join(character for character in text if not unicodedata.combining(character))
    text = _MIXED.sub(lambda hit: hit[0].translate(_LEET), text)
    text = _SPACED.sub(lambda hit: re.sub(r"[ .\-_*]", "", hit[0]), text)
    return " ".join(text.split())


def matched(sentence: str) -> dict[str, str]:
    """Kind of harm → the wording in the ``plain`` sentence that is unsafe in this way."""
    found = {}
    for kind, patterns in _patterns().items():
        for pattern in patterns:
            hit = pattern.search(sentence)
            if hit and not _is_harmless(kind, sentence, hit):
                found[kind] = hit[0]
                break
    return found


def _is_harmless(kind: str, sentence: str, hit: re.Match[str]) -> bool:
    before = sentence[: hit.start()]
    if kind in _WARNED:
        return bool(_WARNING.search(before) or re.match(r"(?:never|don't|do not|not)\b", hit[0]))
    if kind == "insult":
        return bool(_REPORTED.search(hit[0]))
    return False
