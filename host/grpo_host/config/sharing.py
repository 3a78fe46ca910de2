"""What an accelerate configuration asks for, as far as a look at it tells: accelerate is not loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from grpo_sdk.errors import ConfigError


def asked_by(path: Path) -> dict[str, str]:
    """The variables that ``accelerate launch`` would set of the configuration at ``path`` for FSDP.

    Raises ``ConfigError`` if it cannot be read, or shards nothing.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}. Make one with accelerate config") from None
    except (OSError, ValueError, YAMLError) as problem:
        raise ConfigError(f"{path} cannot be used: {problem}") from problem
    settings = values if isinstance(values, Mapping) else {}
    kind = settings.get("distributed_type")
    if kind != "FSDP":
        raise ConfigError(
            f"{path} asks for no FSDP, but for {kind or 'nothing'}. Say distributed_type: FSDP, and "
            "fsdp_version: 2 in fsdp_config, or leave training.accelerate out"
        )
    fsdp = settings.get("fsdp_config") or {}
    if not isinstance(fsdp, Mapping):
        raise ConfigError(
            f"{path} cannot be used: its fsdp_config is no mapping. Write fsdp_version: 2 below it"
        )
    return {str(name).upper(): str(value) for name, value in fsdp.items() if value is not None}


def refusals(asked: Mapping[str, str]) -> Iterator[str]:
    """Why a model cannot be shared as the variables in ``asked`` say, with the next step."""
    version = asked.get("FSDP_VERSION", "1")
    if version != "2":
        yield (
            f"the accelerate configuration asks for FSDP {version}, which torch has replaced. Say "
            "fsdp_version: 2 in its fsdp_config"
        )
    if is_on(asked.get("FSDP_ACTIVATION_CHECKPOINTING", "")):
        # accelerate renames the layers for it, and the backend would not know the weights by these names.
        yield (
            "the accelerate configuration asks for fsdp_activation_checkpointing. Leave it out, and say "
            "training.gradient_checkpointing: true, which does the same"
        )
    if asked.get("FSDP_AUTO_WRAP_POLICY", "").upper() == "SIZE_BASED_WRAP":
        yield (
            "the accelerate configuration asks for SIZE_BASED_WRAP, which would shard lists of layers, as "
            "FSDP2 cannot. Say fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP"
        )


def is_on(text: str) -> bool:
    """Whether accelerate takes ``text`` for yes."""
    return text.lower() in ("1", "true", "yes", "on", "y", "t")
