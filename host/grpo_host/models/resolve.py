"""Finds a model by its name: an alias, a local directory or a hub id becomes a directory.

Importing this is cheap: heavy libraries are imported by the functions that need them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from grpo_host.models.embedded import (
    EMBEDDED,
    EmbeddedModel,
    Progress,
    conversion_path,
    embedded_path,
    is_complete,
    is_installed,
    needs_extra,
)
from grpo_host.utils.paths import expanded
from grpo_sdk.adapters import hub_id as hub_id
from grpo_sdk.errors import ModelError, did_you_mean

ALIASES_VARIABLE = "GRPO_MODEL_ALIASES"
"""Holds ``name=target`` pairs, with commas between them, or the path of a JSON file of such pairs."""
HUB_FILES = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class ResolvedModel:
    """A model whose files are here: ``path`` is a directory that transformers and vLLM load."""

    name: str
    path: Path
    source: Literal["embedded", "path", "hub"]
    hub_id: str | None = None
    """Its name on the hub; None if it has none that we know."""
    license: str | None = None
    """None if we do not know it."""


@dataclass(frozen=True)
class ModelInfo:
    """One line of ``grpo-host models``."""

    alias: str
    description: str
    installed: bool
    """Whether its package is installed; for a user's alias and a hub model, whether it is here."""
    cached: bool
    path: Path | None
    hub_id: str | None = None


def resolve_model(
    name: str, *, aliases: Mapping[str, str] | None = None, progress: Progress | None = None
) -> ResolvedModel:
    """Find, download or convert the model called ``name`` and say where it lies.

    ``aliases`` (over those of ``$GRPO_MODEL_ALIASES``) points names at other names. ``progress`` is
    told, in words, before anything that takes long.
    """
    target = _follow(name, _all_aliases(aliases))
    tell = progress or (lambda _: None)
    if target in EMBEDDED:
        embedded = EMBEDDED[target]
        path = embedded_path(embedded, tell)
        return ResolvedModel(name, path, "embedded", embedded.hub_id, embedded.license)
    if (directory := _local(target)) is not None:
        directory = checked_directory(directory, name)
        return ResolvedModel(name, directory, "path", hub_id(str(directory)))
    if not _HUB_ID.fullmatch(target):
        raise ModelError(_cannot_be_had(name, "it is no alias, directory or hub id"))
    return ResolvedModel(name, checked_directory(_download(name, target, tell), name), "hub", target)


def check_name(name: str, *, also: Sequence[str] = ()) -> None:
    """Raise ``ModelError`` if ``name`` can only be a mistake: no path that is here, almost an alias.

    ``also`` are other names that may have been meant. No hub is asked, and nothing is loaded.
    """
    target = _follow(name, _all_aliases(None))
    if target in EMBEDDED:
        return
    if (directory := _local(target)) is not None:
        checked_directory(directory, name)
    elif not _HUB_ID.fullmatch(target):
        raise ModelError(_cannot_be_had(name, "it is no alias, directory or hub id"))
    elif target not in (here := [info.alias for info in _hub_cache()]):
        near = get_close_matches(target, [*EMBEDDED, *here, *also], n=1, cutoff=0.85)
        if near:
            raise ModelError(f'there is no model "{name}". Did you mean "{near[0]}"?')


def list_models(aliases: Mapping[str, str] | None = None) -> list[ModelInfo]:
    """The models that can be named here: embedded ones, the user's aliases, the hub's cache."""
    known = {info.alias: info for info in [*map(_info, EMBEDDED.values()), *_hub_cache()]}
    users = {}
    for alias in (pairs := _all_aliases(aliases)):
        target = _follow(alias, pairs)
        here = directory if (directory := expanded(target)).is_dir() else None
        info = known.get(target) or ModelInfo(alias, "", bool(here), bool(here), here)
        users[alias] = replace(info, alias=alias, description=f"alias of {target}")
    return list({**known, **users}.values())


def directory_here(name: str) -> Path | None:
    """Where the model called ``name`` lies, if it is here already and needs no download or conversion."""
    listed = {info.alias: info.path for info in list_models()}
    directory = listed.get(name) or expanded(name)
    return directory if (directory / "config.json").is_file() else None


def _local(target: str) -> Path | None:
    """The directory that ``target`` names, here or missing; None if it may be a hub's model."""
    directory = expanded(target)
    named = directory.exists() or target.startswith((".", "~", "/")) or target.count("/") > 1
    return directory if named else None


def _all_aliases(passed: Mapping[str, str] | None) -> dict[str, str]:
    aliases: object = {}
    said = os.environ.get(ALIASES_VARIABLE, "")
    file = expanded(said)
    if "=" in said and not file.is_file():
        aliases = _alias_pairs(said)
    elif said:
        try:
            aliases = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(f"${ALIASES_VARIABLE}: cannot read {file}: {error}") from error
    if not isinstance(aliases, dict) or not all(isinstance(to, str) for to in aliases.values()):
        raise ModelError(f'${ALIASES_VARIABLE}: the file must hold {{"name": "target", …}}')
    return {**aliases, **(passed or {})}


def _alias_pairs(said: str) -> dict[str, str]:
    pairs = {}
    for pair in filter(None, map(str.strip, said.split(","))):
        name, equals, target = (part.strip() for part in pair.partition("="))
        if not (name and equals and target):
            raise ModelError(
                f'${ALIASES_VARIABLE}: "{pair}" is no alias; write name=target, as in gpt2=smollm2-135m'
            )
        pairs[name] = target
    return pairs


def _follow(name: str, aliases: Mapping[str, str]) -> str:
    chain = [name]
    while (target := aliases.get(chain[-1])) is not None:
        if target in chain:
            raise ModelError(f"model aliases form a circle: {' → '.join([*chain, target])}")
        chain.append(target)
    return chain[-1]


def checked_directory(directory: Path, name: str) -> Path:
    """``directory``, once it is sure that it holds safetensors and needs no code of its own."""
    problem = ""
    config: dict[str, Any] = {}
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problem = f"{directory} holds no readable config.json ({error})"
    if not directory.is_dir():
        what = "is a file" if directory.exists() else "does not exist"
        problem = f"the directory {directory} {what}"
    elif not problem and not any(directory.glob("*.safetensors")):
        problem = (
            f"{directory} holds no .safetensors weights. Other formats can run code when they are "
            "loaded and are not read: save the model with save_pretrained() first"
        )
    elif not problem and (larger := _larger_tokenizer(directory, config)):
        problem = larger
    elif "auto_map" in config and not _is_built_in(config.get("model_type")):
        problem = "it needs Python code of its own (trust_remote_code), which is never run"
    if problem:
        raise ModelError(_cannot_be_had(name, problem))
    return directory.resolve()


def _larger_tokenizer(directory: Path, config: Mapping[str, Any]) -> str:
    """What is wrong if the tokenizer has ids that the embedding has no row for; else empty."""
    rows = config.get("vocab_size", (config.get("text_config") or {}).get("vocab_size"))
    try:
        tokenizer = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
        vocabulary = (tokenizer.get("model") or {}).get("vocab") or {}
        ids = [len(vocabulary) - 1] if isinstance(vocabulary, list) else list(vocabulary.values())
        highest = max([*ids, *(token["id"] for token in tokenizer.get("added_tokens") or ())], default=-1)
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return ""  # loading it tells what is wrong with it
    if not isinstance(rows, int) or highest < rows:
        return ""
    return (
        f"its tokenizer has ids up to {highest}, and its embedding {rows} rows (vocab_size): the ids above "
        "cannot be read. Call resize_token_embeddings(len(tokenizer)) on the model and save it anew"
    )


def longest_context(directory: Path) -> int | None:
    """How many tokens the model in ``directory`` was made for; None if its config does not tell."""
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        scaled = config.get("rope_scaling") or "factor" in (config.get("rope_parameters") or {})
        tokens = config.get("max_position_embeddings")
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    return tokens if isinstance(tokens, int) and not scaled else None


def end_ids(directory: Path) -> tuple[int, ...]:
    """The ids at which the model in ``directory`` is to stop, by its generation settings."""
    for file in ("generation_config.json", "config.json"):
        try:
            ids = json.loads((directory / file).read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError):
            continue
        found = [id for id in (ids if isinstance(ids, list) else [ids]) if isinstance(id, int)]
        if found:
            return tuple(found)
    return ()


def _is_built_in(model_type: object) -> bool:
    with needs_extra("loading a model"):
        from transformers import CONFIG_MAPPING
    return model_type in CONFIG_MAPPING


def _download(name: str, hub_id: str, tell: Progress) -> Path:
    with needs_extra("a model of the hub"):
        from huggingface_hub import snapshot_download
        from tqdm.auto import tqdm  # type: ignore[import-untyped]
    tell(f"Looking up {hub_id} on the hub; what is missing here is downloaded")
    try:
        # In folders are copies of the weights for other programs.
        path = snapshot_download(hub_id, allow_patterns=HUB_FILES, ignore_patterns=["*/*"], tqdm_class=tqdm)
        return Path(path)
    except Exception as error:  # the hub client raises httpx, OS and its own errors alike
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(_cannot_be_had(name, first_line.rstrip(". "))) from error


def _cannot_be_had(name: str, reason: str) -> str:
    ways = ways_out(name, "give a directory that save_pretrained() wrote")
    return f'model "{name}" cannot be had: {reason}.{ways}'


def ways_out(name: str, otherwise: str) -> str:
    """What can be done where the model ``name`` cannot be had; ``otherwise`` is the last of it."""
    ready = [info.alias for info in map(_info, EMBEDDED.values()) if info.installed or info.cached]
    here = [*ready, *(info.alias for info in _hub_cache())]
    near = did_you_mean(name, [*EMBEDDED, *here])
    ways = [f"here are: {', '.join(here)}"] if here else []
    for model in EMBEDDED.values():
        if model.alias not in ready:
            ways.append(f"to have {model.alias} here, run: {model.install}")
        if not near and re.fullmatch(r"[\w.-]+", name):
            ways.append(f"to have {model.alias} in its place, set {ALIASES_VARIABLE}={name}={model.alias}")
    text = "; or ".join(["; ".join(ways), otherwise]) if ways else otherwise
    return f"{near} {text[0].upper()}{text[1:]}"


def _hub_cache() -> list[ModelInfo]:
    """Models that the hub's client has downloaded, read off its folders: it is slow to import."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    root = expanded(os.environ.get("HF_HUB_CACHE") or home / "hub")
    found = {
        hub_id(str(path.parent)): path.parent
        for path in sorted(root.glob("models--*/snapshots/*/config.json"))
    }
    return [
        ModelInfo(name, "in the hub's cache", True, True, path, name) for name, path in found.items() if name
    ]


def _info(model: EmbeddedModel) -> ModelInfo:
    path = conversion_path(model)
    here = path if is_complete(path) else None
    return ModelInfo(model.alias, model.description, is_installed(model), bool(here), here, model.hub_id)
