"""Can the chosen backend do what the configuration asks, with what is installed here?"""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, cast

from grpo_host.utils.paths import expanded
from grpo_host.utils.validation import Complaint, Location
from grpo_sdk.adapters import check_base
from grpo_sdk.backend import TRAINABLE, Backend, Capability, ModelSpec
from grpo_sdk.errors import MissingExtraError, ModelError, did_you_mean

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentConfig
    from grpo_host.plugins import Registry
    from grpo_host.plugins.use import BackendUse, ModelConfig, PluginUse

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
    """Find what the configuration asks of the backend and its capabilities do not include."""
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
    if training and config.training.max_staleness and Capability.ADAPTER_SYNC not in can:
        yield Complaint(
            ("training", "max_staleness"),
            f'the backend "{name}" cannot sample while it is given new weights. Use vllm_server, or set it '
            "to 0",
        )
    if training and Capability.ADAPTER_SYNC in can and config.training.lora is None:
        yield Complaint(
            ("training", "lora"),
            f'the backend "{name}" takes new weights as LoRA adapters alone. Leave training.lora out, or '
            "train the whole model with another backend",
        )
    if training and config.training.load_in and Capability.ADAPTER_SYNC not in can:
        yield Complaint(
            ("training", "load_in"),
            f'the backend "{name}" is given merged weights, and what is kept in {config.training.load_in} '
            "cannot be merged exactly. Use vllm_server, or leave it out",
        )
    if training and config.training.world_size > 1 and Capability.RANKS not in can:
        yield Complaint(
            NAME,
            f'the backend "{name}" does not work in one of several ranks. Use vllm_server or '
            "transformers there, or set training.world_size to 1",
        )
    if config.deterministic and "deterministic" not in inspect.signature(backend).parameters:
        yield Complaint(
            ("deterministic",),
            f'the backend "{name}" cannot promise it: it has no option deterministic. Use transformers or '
            "vllm, or set it to false",
        )
    if tools and speaks and Capability.TOKEN_IDS not in can and Capability.TOOLS not in can:
        yield Complaint(
            NAME,
            f'the agent has tools ({", ".join(tools)}), and the backend "{name}" cannot call any. '
            f"Choose a backend with the capability tools or token_ids",
        )
    yield from _check_adapter(config.model, config.backend, backend, ())


def check_backend_option(use: BackendUse, backend: type[Backend], at: Location) -> Iterator[Complaint]:
    """Find what is wrong with the backend that the option at ``at`` names for a plugin's own use."""
    if not {Capability.CHAT, Capability.TOKEN_IDS} & backend.capabilities:
        yield Complaint((*at, "name"), f'the backend "{use.name}" can neither chat nor speak token ids')
    yield from _check_adapter(use.model, use, backend, at)
    yield from check_settings(use.model, use, backend, at)
    yield from _check_requirements(use, backend, (*at, "name"))
    yield from check_model(use.model, backend, at)


def _check_adapter(
    model: ModelConfig, use: PluginUse, backend: type[Backend], at: Location
) -> Iterator[Complaint]:
    if model.adapter and not {Capability.LOCAL_WEIGHTS, Capability.ADAPTERS} & backend.capabilities:
        yield Complaint(
            (*at, "model", "adapter"),
            f'the backend "{use.name}" loads no adapters. Leave the adapter out, or serve it elsewhere',
        )


NEEDED: Mapping[str, tuple[Capability, str]] = {
    "dtype": (Capability.LOCAL_WEIGHTS, "calls a model elsewhere and cannot set its dtype"),
    "stop": (Capability.TOKEN_IDS, "speaks messages, which are rendered where the model runs"),
    "tool_format": (Capability.TOKEN_IDS, "speaks messages, which are rendered where the model runs"),
}
"""Setting of the model → what a backend must be able to do to honour it, and what to say if it cannot."""


def honoured(key: str, backend: type[Backend]) -> bool:
    """Whether ``backend`` can honour the model's setting ``key``."""
    return key not in NEEDED or NEEDED[key][0] in backend.capabilities


def check_settings(
    model: ModelConfig, use: PluginUse, backend: type[Backend], at: Location = ()
) -> Iterator[Complaint]:
    """Find settings of the model below ``at`` that the backend cannot honour."""
    for key, (_, why) in NEEDED.items():
        if key in model.model_fields_set and not honoured(key, backend):
            yield Complaint((*at, "model", key), f'the backend "{use.name}" {why}. Leave {key} out')


def _check_requirements(use: PluginUse, backend: type[Backend], at: Location) -> Iterator[Complaint]:
    missing = next((module for module in backend.requires if not _is_installed(module)), None)
    if missing is not None:
        yield Complaint(at, _how_to_install(use.name, missing, backend.extra))


def check_installed(config: AgentConfig, backend: type[Backend], *, training: bool) -> Iterator[Complaint]:
    """Find packages that are needed and not installed."""
    yield from _check_requirements(config.backend, backend, NAME)
    if training:
        absent = next((m for m in ("torch", "trl", "peft") if not _is_installed(m)), None)
        if absent is not None:
            yield Complaint(("training",), str(MissingExtraError("training", absent, "train")))
        for index, tracker in enumerate(config.training.report_to):
            yield from _check_tracker(tracker, index)


def check_model(model: ModelConfig, backend: type[Backend], at: Location = ()) -> Iterator[Complaint]:
    """Check that the model below ``at`` and its adapter exist, as far as a quick look can tell."""
    adapter = model.adapter
    if adapter and not _is_adapter(Path(adapter)):
        yield Complaint(
            (*at, "model", "adapter"),
            f"{adapter} is no PEFT adapter: it holds no adapter_config.json of one. "
            f"Give the adapter folder of a run",
        )
        adapter = None
    if Capability.LOCAL_WEIGHTS not in backend.capabilities:
        return
    from grpo_host.models.embedded import EMBEDDED
    from grpo_host.models.resolve import checked_directory, list_models, longest_context, ways_out

    directory: Path | None = None
    name = model.name
    models = {info.alias: info for info in list_models()}
    if name in models:
        directory = models[name].path
        if not models[name].installed and not models[name].cached:
            how = EMBEDDED[name].install if name in EMBEDDED else "grpo-host models"
            yield Complaint((*at, "model", "name"), f'the model "{name}" is not installed. Run: {how}')
    elif name.startswith((".", "~", "/")) or Path(name).is_dir():
        try:
            directory = checked_directory(expanded(name), name)
        except ModelError as error:
            yield Complaint((*at, "model", "name"), str(error))
    elif not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        yield Complaint(
            (*at, "model", "name"),
            f'no model "{name}".{ways_out(name, "give a hub id (owner/name) or a directory")}',
        )
    hub_id = models[name].hub_id if name in models else None
    if adapter and (directory or hub_id):
        try:
            check_base(Path(adapter), ModelSpec(name, directory, hub_id=hub_id))
        except ModelError as error:
            yield Complaint((*at, "model", "adapter"), str(error))
    longest = longest_context(directory) if directory else None
    if longest is not None and model.context > longest:
        yield Complaint(
            (*at, "model", "context"),
            f"the model was made for {longest} tokens at most. Lower it to that or less",
        )


def _is_adapter(directory: Path) -> bool:
    try:
        config = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and "peft_type" in config


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
