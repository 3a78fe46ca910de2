"""Tokenizers of other families: the embedded one with their special tokens and their chat templates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

TURNS = ("<|im_start|>", "<|im_end|>")
MISTRAL = """\
{{ bos_token }}{% for m in messages %}\
{% if m.role == "user" %}{% if tools and m == (messages | selectattr("role", "equalto", "user") | list)[-1] %}\
[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}[INST] {{ m.content }}[/INST]\
{% elif m.tool_calls %}[TOOL_CALLS] [{% for call in m.tool_calls %}\
{% if call.id | length != 9 %}{{ raise_exception("Tool call IDs should be alphanumeric strings with length 9!") }}\
{% endif %}{{ (call.function | tojson)[:-1] }}, "id": "{{ call.id }}"}{% if not loop.last %}, {% endif %}\
{% endfor %}]{{ eos_token }}{% elif m.role == "assistant" %} {{ m.content | trim }}{{ eos_token }}\
{% elif m.role == "tool" %}[TOOL_RESULTS] {"content": {{ m.content | tojson }}, "call_id": "{{ m.tool_call_id }}"}\
[/TOOL_RESULTS]{% endif %}{% endfor %}"""
NAMED = """\
{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}{% for m in messages %}\
{% if m.role == "user" %}[INST]{{ m.content }}[/INST]{% elif m.role == "tool" %}[TOOL_RESULTS]{{ m.content }}\
[/TOOL_RESULTS]{% else %}{{ m.content }}{% for call in m.tool_calls or [] %}[TOOL_CALLS]{{ call.function.name }}\
[ARGS]{{ call.function.arguments | tojson }}{% endfor %}{{ eos_token }}{% endif %}{% endfor %}"""
MARKS = (
    "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]",
    "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[ARGS]",
)  # fmt: skip
LLAMA3 = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"
)  # fmt: skip
GLM = ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
TEMPLATES = {
    "qwen 2.5": ("qwen2_5", TURNS, "<|im_end|>"),
    "llama 3.1": ("llama3_1", LLAMA3, "<|eot_id|>"),
    "mistral": (MISTRAL, MARKS, "</s>"),
    "mistral, newer": (NAMED, MARKS, "</s>"),
    "qwen 3.5": ("qwen3_8", (*TURNS, "<think>", "</think>"), "<|im_end|>"),
    "glm 4": ("glm4moe", GLM, "<|endoftext|>"),
}
"""Family: its template, or the file of it, its special tokens and its end token."""


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


@pytest.fixture(scope="session")
def tokenizer_of(family_tokenizer: Callable[..., Any]) -> Callable[[str], Any]:
    """Gives the tokenizer of a family of ``TEMPLATES``."""

    def make(name: str) -> Any:
        template, tokens, eos = TEMPLATES[name]
        if template in (MISTRAL, NAMED):
            tokenizer = family_tokenizer("gemma", tokens, eos)
            tokenizer.chat_template = template
            return tokenizer
        return family_tokenizer(template, tokens, eos)

    return make
