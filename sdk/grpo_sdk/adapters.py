"""PEFT adapters: each belongs to the model that it was trained on.

An adapter of another model with the same widths loads without an error and answers nonsense, so
each place that loads one checks this first.
"""

from __future__ import annotations

import filecmp
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grpo_sdk.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    from grpo_sdk.backend import ModelSpec

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
BASE = "base_model_name_or_path"


def check_adapter(adapter: Path, model: ModelSpec) -> None:
    """Raise ``ModelError`` if the adapter at ``adapter`` does not belong to ``model``.

    Compares the name of its base model, then the names and shapes of its weights; reads no weight.
    """
    check_base(adapter, model)
    if model.path is not None:
        _check_weights(adapter, model)


def check_base(adapter: Path, model: ModelSpec) -> None:
    """Raise ``ModelError`` if the adapter names another base model. Quick: looks at no weights."""
    base = adapter_settings(adapter).get(BASE)
    if base and not is_same_model(str(base), model):
        raise ModelError(
            f"{adapter}: the adapter belongs to the model {base}, not to {model.name}. Use the model that "
            f"it was trained on; if the two are the same, name {model.hub_id or model.path or model.name} "
            f"as {BASE} in its {CONFIG}"
        )


def adapter_settings(adapter: Path) -> dict[str, Any]:
    """What adapter_config.json says. Raises ``ModelError`` if ``adapter`` is nothing that PEFT wrote."""
    try:
        settings = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        settings = None
    except (OSError, ValueError) as problem:
        raise ModelError(f"{adapter}: its {CONFIG} cannot be read: {problem}") from problem
    if not isinstance(settings, dict):
        raise ModelError(
            f"{adapter}: no {CONFIG} in it. Give the directory that save_pretrained() of a PEFT model "
            "wrote, e.g. runs/<agent>/<run id>/adapter"
        )
    return settings


def name_base(adapter: Path, name: str) -> None:
    """Say in the adapter's configuration that its base model is called ``name``."""
    settings = {**adapter_settings(adapter), BASE: name}
    (adapter / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def is_same_model(base: str, model: ModelSpec) -> bool:
    """Whether ``base``, an adapter's name for its base model, is ``model``, as far as it can be known.

    Hub ids tell it, also those of snapshots that the hub's client keeps. Directories are the same if
    they hold the same weights. Of one that is not here only the last part of its path can be compared.
    """
    if base == model.name:
        return True
    theirs = hub_id(base) or base
    ours = model.hub_id or hub_id(str(model.path)) or model.name
    if _is_hub_id(theirs) and _is_hub_id(ours):
        return theirs == ours
    if model.path is not None and Path(base).is_dir():
        return _same_weights(Path(base), model.path)
    known = {Path(text).name.lower() for text in (ours, str(model.path))}
    return Path(theirs).name.lower() in known


def hub_id(path: str) -> str | None:
    """The hub id of the model that the hub's client keeps at ``path``; None if it is not from there."""
    *_, folder, snapshots, _revision = ["", "", "", *Path(path).parts]
    is_kept = snapshots == "snapshots" and folder.startswith("models--")
    return folder.removeprefix("models--").replace("--", "/") if is_kept else None


def _is_hub_id(name: str) -> bool:
    return re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None and not Path(name).is_dir()


def _same_weights(one: Path, other: Path) -> bool:
    if one.resolve() == other.resolve():
        return True
    names = sorted(path.name for path in other.glob("*.safetensors"))
    if names != sorted(path.name for path in one.glob("*.safetensors")):
        return False
    return all(filecmp.cmp(one / name, other / name, shallow=False) for name in names)


def _check_weights(adapter: Path, model: ModelSpec) -> None:
    """The adapter has a weight for each place in the model that it adapts, and no others."""
    if not (adapter / WEIGHTS).is_file():
        raise ModelError(
            f"{adapter}: no {WEIGHTS} in it; save the adapter anew with save_pretrained() of PEFT"
        )
    try:
        wanted, held = _wanted(adapter, model), _held(adapter)
    except (ValueError, KeyError, OSError, RuntimeError, TypeError) as problem:
        raise _does_not_fit(adapter, model, str(problem).strip().partition("\n")[0]) from problem
    problems = [
        *(f"it has no {name}" for name in sorted(wanted.keys() - held.keys())),
        *(f"the model has no place for {name}" for name in sorted(held.keys() - wanted.keys())),
        *(
            f"{name} is {held[name]}, and the model takes {wanted[name]}"
            for name in sorted(wanted.keys() & held.keys())
            if wanted[name] != held[name]
        ),
    ]
    if problems:
        more = f" (and {len(problems) - 1} more like it)" if len(problems) > 1 else ""
        raise _does_not_fit(adapter, model, problems[0] + more)


def _does_not_fit(adapter: Path, model: ModelSpec, why: str) -> ModelError:
    return ModelError(
        f"{adapter}: the adapter does not fit the model {model.name} in {model.path}: {why}. "
        "Use the model that it was trained on"
    )


def _wanted(adapter: Path, model: ModelSpec) -> Mapping[str, tuple[int, ...]]:
    """The LoRA weights that PEFT would look for, from the model without its weights."""
    try:
        from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
    except ImportError as problem:
        raise MissingExtraError("loading an adapter", problem.name or "peft", "train") from problem
    settings = PeftConfig.from_pretrained(str(adapter))
    settings.base_model_name_or_path = None  # it has been compared; PEFT would warn of another path
    adapted = get_peft_model(empty_model(model.path), settings)
    weights = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in weights.items() if "lora_" in name}


def _held(adapter: Path) -> Mapping[str, tuple[int, ...]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(adapter / WEIGHTS, "pt") as weights:
            return {
                name: tuple(weights.get_slice(name).get_shape())
                for name in weights.keys()  # noqa: SIM118 -- it is no dictionary
                if "lora_" in name
            }
    except SafetensorError as problem:
        raise ModelError(
            f"{adapter / WEIGHTS} is damaged: {problem}. Put it back from a copy, or save the adapter anew"
        ) from problem


def empty_model(path: Path | None) -> Any:
    """The model in the directory ``path``, with all modules but without weights: cheap."""
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError as problem:
        raise MissingExtraError("loading a model", problem.name or "transformers", "train") from problem
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
