"""What an agent's backend serves after training, so that training it again goes on from there."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_sdk.backend import Backend, ModelSpec

if TYPE_CHECKING:
    from grpo_host.training.policy import Policy

_unsaved: weakref.WeakKeyDictionary[Backend, Policy] = weakref.WeakKeyDictionary()


def trained(backend: Backend, policy: Policy) -> None:
    """``backend`` has the weights of ``policy``, which are in no file yet."""
    _unsaved[backend] = policy


def saved(backend: Backend, path: Path, *, adapter: bool) -> ModelSpec:
    """``backend`` has the weights that lie at ``path``: an adapter, or a whole model."""
    _unsaved.pop(backend, None)
    spec, path = backend.model, path.resolve()
    spec = replace(spec, adapter=path) if adapter else replace(spec, path=path, adapter=None)
    for held in (backend, getattr(backend, "inner", None)):
        if isinstance(held, Backend):
            held.model = spec
    return spec


def served(backend: Backend) -> ModelSpec:
    """Where the weights that ``backend`` serves can be loaded from.

    Those in no file are saved for as long as it lives. It blocks. Raises ``RunError``.
    """
    policy = _unsaved.get(backend)
    if policy is None:
        return backend.model
    folder = tempfile.mkdtemp(prefix="grpo-trained-")
    weakref.finalize(backend, shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "weights"
    policy.save(path)
    return saved(backend, path, adapter=policy.has_adapter)
