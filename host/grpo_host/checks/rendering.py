"""Check that conversations with the model can be rendered exactly. Reads its tokenizer, no weights."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_host.models.resolve import directory_here
from grpo_host.utils.validation import Complaint
from grpo_sdk.backend import Backend, Capability
from grpo_sdk.errors import ModelError

if TYPE_CHECKING:
    from grpo_host.plugins.use import ModelConfig


def check_rendering(model: ModelConfig, backend: type[Backend]) -> tuple[list[Complaint], tuple[str, ...]]:
    """Find what is wrong and what could not be proven. Nothing if the model's files are not here yet."""
    if not backend.capabilities >= {Capability.LOCAL_WEIGHTS, Capability.TOKEN_IDS}:
        return [], ()
    directory = directory_here(model.name)
    if directory is None or not _has_tokenizer(directory) or find_spec("transformers") is None:
        return [], ()
    from transformers import AutoTokenizer

    from grpo_host.agents.rendering import find_renderer
    from grpo_host.assembly.from_yaml import model_spec

    try:
        tokenizer = AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError, KeyError, AttributeError, ImportError) as problem:
        what = f"its tokenizer cannot be loaded: {' '.join(str(problem).split())[:300]}"
        return [Complaint(("model", "name"), what)], ()
    try:
        return [], find_renderer(tokenizer, model_spec(model, directory)).doubts
    except ModelError as problem:
        key = next((key for key in ("stop", "tool_format") if f"model.{key}:" in str(problem)), "name")
        return [Complaint(("model", key), str(problem))], ()


def _has_tokenizer(directory: Path) -> bool:
    files = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
    return any((directory / file).is_file() for file in files)
