"""Tokenizers of other families: the embedded one with their special tokens and their chat templates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def family_tokenizer(smollm_tokenizer: Any) -> Callable[..., Any]:
    """Gives the embedded tokenizer with a template of TRL's (its file, without suffix) and special tokens."""
    trl = pytest.importorskip("trl")
    templates = Path(trl.__file__).parent / "chat_templates"

    @cache
    def made(template: str, tokens: tuple[str, ...], eos: str) -> Any:
        tokenizer = copy.deepcopy(smollm_tokenizer)
        tokenizer.add_tokens(list(tokens), special_tokens=True)
        tokenizer.eos_token = eos
        tokenizer.bos_token = tokens[0]
        tokenizer.chat_template = (templates / f"{template}.jinja").read_text(encoding="utf-8")
        return tokenizer

    def make(template: str, tokens: Sequence[str], eos: str) -> Any:
        return copy.copy(made(template, tuple(tokens), eos))  # a test may give it another template

    return make
