"""A judge by the name of its model, for code that has no agent.yaml."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from grpo_host.assembly.from_yaml import make_backend
from grpo_host.backends.on_demand import OnDemandBackend
from grpo_host.config.backend_checks import check_backend_option
from grpo_host.plugins import load_plugins
from grpo_host.plugins.options import resolve_use
from grpo_host.plugins.use import BackendUse
from grpo_sdk.errors import ConfigError

if TYPE_CHECKING:
    from grpo_host.plugins import Registry
    from grpo_sdk.backend import Backend

MODEL_VARIABLE = "GRPO_JUDGE_MODEL"
BACKEND_VARIABLE = "GRPO_JUDGE_BACKEND"


def make_judge(
    model: str,
    backend: str = "litellm",
    *,
    options: Mapping[str, Any] | None = None,
    context: int = 4096,
    registry: Registry | None = None,
    progress: Callable[[str], None] | None = None,
) -> OnDemandBackend:
    """``model`` on ``backend`` as a judge, which starts when it is first asked.

    Raises ``GrpoError`` if the backend is not there or not installed, cannot chat, or has no
    such model. A key or address that is wrong shows at the first question.
    """
    use = BackendUse.model_validate(
        {"name": backend, "model": {"name": model, "context": context}, "options": dict(options or {})}
    )
    chosen = resolve_use("backend", use, registry or load_plugins())
    kind = cast("type[Backend]", chosen.offer.factory)
    if complaints := list(check_backend_option(use, kind, ())):
        raise ConfigError(f'the judge "{model}" on {backend}: {"; ".join(c.message for c in complaints)}')
    return OnDemandBackend(make_backend(chosen, use.model, progress=progress))


def judge_from_environment(*, registry: Registry | None = None) -> OnDemandBackend:
    """The judge that ``$GRPO_JUDGE_MODEL`` names, on ``$GRPO_JUDGE_BACKEND`` or LiteLLM.

    Raises ``ConfigError`` if the variable is not set, and as ``make_judge`` does.
    """
    model = os.environ.get(MODEL_VARIABLE)
    if not model:
        raise ConfigError(
            f"no judge is configured: give one, or set the environment variable {MODEL_VARIABLE} to a "
            f"model as LiteLLM names it ({BACKEND_VARIABLE} names another backend)"
        )
    return make_judge(model, os.environ.get(BACKEND_VARIABLE) or "litellm", registry=registry)
