"""Can the chosen backend do what the configuration asks, with what is installed here?"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

from grpo_host.validation import Complaint
from grpo_sdk.backend import TRAINABLE, Backend, Capability
from grpo_sdk.errors import MissingExtraError, did_you_mean

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentConfig
    from grpo_host.plugins import Registry

DISTRIBUTION = "grpo-agent-framework"
NAME = ("backend", "name")


def check_capabilities(
    config: AgentConfig,
    backend: type[Backend],
    registry: Registry,
    *,
    training: bool,
    tools: Sequence[str],
) -> Iterator[Complaint]:
    """What is asked of the backend and is not among its capabilities."""
    can = backend.capabilities
    speaks = {Capability.CHAT, Capability.TOKEN_IDS} & can
    name = config.backend.name
    if not speaks:
        yield Complaint(NAME, f'the backend "{name}" can neither chat nor speak token ids')
    if training and not can >= TRAINABLE:
        lacks = ", ".join(sorted(TRAINABLE - can))
        backends = ((o.name, cast("type[Backend]", o.factory)) for o in registry.offers("backend"))
        able = sorted({label for label, other in backends if other.capabilities >= TRAINABLE})
        yield Complaint(
            NAME,
            f'the backend "{name}" cannot be trained with: it has no {lacks}. '
            f"Backends that have: {', '.join(able) or 'none is installed'}",
        )
    if tools and speaks and Capability.TOKEN_IDS not in can and Capability.TOOLS not in can:
        yield Complaint(
            NAME,
            f'the agent has tools ({", ".join(tools)}), and the backend "{name}" cannot call any. '
            f"Choose a backend with the capability tools or token_ids",
        )
    if config.model.adapter and not (backend.local_weights or Capability.ADAPTERS in can):
        yield Complaint(
            ("model", "adapter"),
            f'the backend "{name}" loads no adapters. Leave the adapter out, or serve it elsewhere',
        )


def check_settings(config: AgentConfig, backend: type[Backend]) -> Iterator[Complaint]:
    """Settings of the model that the backend cannot honour."""
    if not backend.local_weights and "dtype" in config.model.model_fields_set:
        yield Complaint(
            ("model", "dtype"),
            f'the backend "{config.backend.name}" calls a model elsewhere and cannot set its dtype. '
            f"Leave dtype out",
        )


def check_installed(config: AgentConfig, backend: type[Backend], *, training: bool) -> Iterator[Complaint]:
    """Packages that are needed and not installed."""
    missing = next((module for module in backend.requires if not _is_installed(module)), None)
    if missing is not None:
        yield Complaint(NAME, _how_to_install(config.backend.name, missing, backend.extra))
    if training:
        absent = next((m for m in ("torch", "trl", "peft") if not _is_installed(m)), None)
        if absent is not None:
            yield Complaint(("training",), str(MissingExtraError("training", absent, "train")))
        for index, tracker in enumerate(config.training.report_to):
            yield from _check_tracker(tracker, index)


def check_model(config: AgentConfig, backend: type[Backend]) -> Iterator[Complaint]:
    """Whether the model and adapter are there, as far as that is quick to see."""
    adapter = config.model.adapter
    if adapter and not (Path(adapter) / "adapter_config.json").is_file():
        yield Complaint(
            ("model", "adapter"),
            f"{adapter} is no PEFT adapter: it holds no adapter_config.json. "
            f"Give the adapter folder of a run",
        )
    if not backend.local_weights:
        return
    from grpo_host.models import list_models

    name = config.model.name
    models = {model.alias: model for model in list_models()}
    known = ", ".join(models)
    if name in models:
        if not models[name].installed:
            yield Complaint(
                ("model", "name"),
                f'the model "{name}" is not installed. Run grpo-host models to see how to get it',
            )
    elif name.startswith((".", "~", "/")) or Path(name).is_dir():
        if not (Path(name).expanduser() / "config.json").is_file():
            yield Complaint(
                ("model", "name"),
                f"{name} is no model directory: it holds no config.json. Models here: {known}",
            )
    elif not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        hint = did_you_mean(name, list(models)) or f" Models here: {known}."
        yield Complaint(
            ("model", "name"),
            f'no model "{name}".{hint} Or give a hub id (owner/name) or a directory',
        )


_TRACKERS = ("tensorboard", "trackio", "wandb")


def _check_tracker(tracker: str, index: int) -> Iterator[Complaint]:
    where = ("training", "report_to", index)
    if tracker not in _TRACKERS:
        hint = did_you_mean(tracker, list(_TRACKERS)) or f" There are: {', '.join(_TRACKERS)}"
        yield Complaint(where, f'no tracker "{tracker}".{hint}')
    elif not _is_installed(tracker):
        yield Complaint(where, _how_to_install(tracker, tracker, tracker))


def _is_installed(module: str) -> bool:
    # Only the top package is looked for: find_spec would import it to look deeper.
    return find_spec(module.partition(".")[0]) is not None


def _how_to_install(what: str, module: str, extra: str) -> str:
    """``extra`` is one of ours, the name of a package, or empty."""
    if extra in (importlib.metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []):
        return str(MissingExtraError(what, module, extra))
    return f"{what} needs the package {module}, which is not installed. Run: pip install {extra or module}"
