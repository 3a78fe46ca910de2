"""Writes the templates of a deployment: image, compose file, Kubernetes manifests."""

from __future__ import annotations

import json
import math
import platform
import secrets
import shlex
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from grpo_host.scaffold.writing import templates, write_texts
from grpo_sdk.errors import ConfigError, RunError

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTION = "grpo-agent-framework"
EXTRAS = ("train", "cpu", "postgres", "litellm")
"""The extras of the image."""
UNPINNED = ("torch", "triton", "vllm", "nvidia-", "cuda-", "flashinfer", "xformers")
"""The image's variants differ in these; the Dockerfile and the extras say which versions."""

CLOSING_SECONDS = 45
"""For all that follows the drain: connections, models, database, telemetry, and preStop before it."""

PRIVATE = ".env"
"""Holds the password of a database that may exist already: never overwritten."""

HIDDEN = {"dockerignore": ".dockerignore", "gitignore": ".gitignore", "env": PRIVATE}
"""Names of templates whose own names would have an effect in this repository."""


def write_deployment(directory: Path, *, agent_yaml: Path | None = None, force: bool = False) -> list[Path]:
    """Write and return the files. Raises ``RunError`` before writing if one exists, unless ``force``."""
    return write_texts(directory, dict(_texts(agent_yaml)), force=force, private={PRIVATE})


def wheel_command() -> str | None:
    """The command, for the deployment's directory, that puts the framework installed here into ``wheels``.

    None if it came from a package index, which the image can ask too. Raises ``RunError`` if the
    wheel or tree that it came from is gone.
    """
    told = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    if not told:
        return None
    address: str = json.loads(told)["url"]
    url = urlsplit(address)
    if url.scheme != "file":
        return f"pip wheel --no-deps --wheel-dir wheels {shlex.quote(address)}"
    path = Path(unquote(url.path))
    if path.is_dir():
        return f"pip wheel --no-deps --wheel-dir wheels {shlex.quote(str(path))}"
    if path.is_file():
        return f"cp {shlex.quote(str(path))} wheels/"
    raise RunError(
        f"{path}, which {DISTRIBUTION} was installed from, is not there any more, and the image needs it. "
        f"Put it back, or install {DISTRIBUTION} from where it is now"
    )


def left_behind(agent_yaml: Path) -> list[str]:
    """Files that ``agent_yaml`` names but the deployment does not hold: the image or its volumes must."""
    from grpo_host.config.load import load_config

    config = load_config(agent_yaml).config
    warm_start = config.training.warm_start
    named = [config.model.name, config.model.adapter, warm_start.dialogues if warm_start else None]
    return [name for name in named if name and Path(name).exists()]


def pins() -> list[str]:
    """What is installed here of all that the image needs, as exact requirements."""
    found: dict[str, str] = {}
    todo = [(DISTRIBUTION, frozenset(EXTRAS))]
    while todo:
        name, extras = todo.pop()
        for needed in _requirements(name, extras):
            if needed.name in found or needed.name.startswith(UNPINNED):
                continue
            try:
                found[needed.name] = metadata.version(needed.name)
            except metadata.PackageNotFoundError:
                continue  # an extra that is not installed here
            todo.append((needed.name, frozenset(needed.extras)))
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def _requirements(name: str, extras: frozenset[str]) -> Iterator[Requirement]:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    for text in metadata.requires(name) or ():
        needed = Requirement(text)
        needed.name = canonicalize_name(needed.name)
        marker = needed.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield needed


def _texts(agent_yaml: Path | None) -> Iterator[tuple[str, str]]:
    """Each file's path within the directory, and its text."""
    values = {
        "VERSION": metadata.version(DISTRIBUTION),
        "PYTHON": ".".join(platform.python_version_tuple()[:2]),
        "IMAGE": f"grpo-server:{metadata.version(DISTRIBUTION)}",
        "GRACE": str(math.ceil(_drain_seconds(agent_yaml)) + CLOSING_SECONDS),
        "PASSWORD": secrets.token_hex(24),
    }
    for name, template in templates("deployment"):
        text = template
        if name == "agent.yaml" and agent_yaml is not None:
            text = agent_yaml.read_text("utf-8")
        else:
            for word, value in values.items():
                text = text.replace(f"@{word}@", value)
        yield HIDDEN.get(name, name), text
    head = f"# What was installed where {DISTRIBUTION} {values['VERSION']} wrote this, without the engines."
    yield "constraints.txt", "\n".join([head, *pins(), ""])


def _drain_seconds(agent_yaml: Path | None) -> float:
    from grpo_host.config.load import load_config
    from grpo_host.config.schema import ServingConfig

    if agent_yaml is None:
        return ServingConfig().drain_seconds
    if not agent_yaml.is_file():
        raise ConfigError(f"there is no file {agent_yaml}; name the agent.yaml that is to be served")
    return load_config(agent_yaml).config.serving.drain_seconds
