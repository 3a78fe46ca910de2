"""Which tokens end an assistant's turn: found in the model's files and in what its chat template writes."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_host.agents.rendering.plain_text import added_texts
from grpo_sdk.backend import Tokenizer
from grpo_sdk.errors import CapabilityError, ModelError

SAID = "Yes, 7."
ASKED = {"role": "user", "content": "Hello"}
ANSWERED = {"role": "assistant", "content": SAID}

Render = Callable[..., str]
"""Messages and ``generate`` to what the chat template writes."""


@dataclass(frozen=True)
class Ends:
    """The ends of a turn."""

    ids: tuple[int, ...]
    """All ids that end it. The first is the one that the chat template writes, if it writes any."""
    closing: str
    """What the template writes behind the assistant's words, up to and with that token. Empty if
    nothing ends a message but the first token of the next one, or nothing at all."""
    doubt: str = ""
    """Why it is not sure that the model will write any of them."""


def find_ends(
    tokenizer: Tokenizer, render: Render, configured: Sequence[int], stop: Sequence[str | int]
) -> Ends:
    """The ends that the template, the model's settings (``configured``) and the tokenizer name.

    ``stop`` takes the place of the template's. The others always count, since engines stop at them.
    Raises ``ModelError`` if there is none at all, or ``stop`` names what is not a token.
    """
    given = [_one_id(tokenizer, token, index) for index, token in enumerate(stop)]
    known = [id for id in (*configured, tokenizer.eos_token_id) if id is not None]
    last, followed = _behind_an_answer(render)
    written = os.path.commonprefix([last, followed])  # noqa: RUF071 -- of any strings, letter by letter
    texts = {tokenizer.decode([id]): id for id in reversed(given or known)}
    first = _first(texts, written)
    if first is None and not given:
        texts = {text: id for text in added_texts(tokenizer) if (id := _id(tokenizer, text)) is not None}
        first = _first(texts, written)
    if first is not None:
        return Ends(_unique(texts[first], *given, *known), written[: written.index(first) + len(first)])
    # The next message's first token may be what ends this one, as with GLM's <|user|>.
    opening = max((text for text in texts if followed.startswith(text)), key=len, default="")
    if opening and not written:
        return Ends(_unique(texts[opening], *given, *known), "")
    if not given and not known:
        raise ModelError(
            "the model's tokenizer has no end token, and nothing that its chat template writes behind an "
            "assistant message is one; set eos_token in the tokenizer's config, or model.stop in agent.yaml"
        )
    ids = _unique(*given, *known)
    return Ends(ids, "", _doubt(written, [tokenizer.decode([id]) for id in ids], bool(given)))


def _behind_an_answer(render: Render) -> tuple[str, str]:
    """What the template writes behind an assistant's words, at the end and before a user's message."""
    try:
        last = render([ASKED, ANSWERED], generate=False)
        followed = render([ASKED, ANSWERED, ASKED], generate=True)
    except CapabilityError:
        return "", ""
    return last.rpartition(SAID)[2], followed.rpartition(SAID)[2]


def _doubt(written: str, ends: Sequence[str], given: bool) -> str:
    what = f"writes {written!r}" if written else "writes nothing"
    if given:
        return (
            f"behind an assistant message its chat template {what}, which holds none of model.stop "
            f"({', '.join(ends)}), so every turn begins a new sequence. Correct model.stop or the template"
        )
    return (
        f"nothing shows where a turn ends: behind an assistant message its chat template {what}, which "
        f"is no token that ends one. It stops only at {', '.join(ends)}, and every turn begins a new "
        f"sequence. If the model has a token for it, name it in model.stop"
    )


def _first(texts: dict[str, int], written: str) -> str | None:
    """The one of ``texts`` that stands first in ``written``."""
    found = [text for text in texts if text and text in written]
    return min(found, key=lambda text: (written.index(text), -len(text)), default=None)


def _one_id(tokenizer: Any, token: str | int, index: int) -> int:
    size = len(tokenizer) if hasattr(tokenizer, "__len__") else None
    if isinstance(token, int):
        if size is not None and token >= size:
            raise ModelError(f"model.stop: [{index}]: there is no token {token}; the tokenizer has {size}")
        return token
    id = _id(tokenizer, token)
    if id is None:
        raise ModelError(
            f'model.stop: [{index}]: "{token}" is not one token of this model. Name one as its tokenizer '
            f"does, such as {', '.join(list(added_texts(tokenizer))[:4]) or 'an id'}"
        )
    return id


def _id(tokenizer: Any, text: str) -> int | None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    return ids[0] if len(ids) == 1 else None


def _unique(*ids: int) -> tuple[int, ...]:
    return tuple(dict.fromkeys(ids))
