"""The environment tau2: τ²-bench's retail and airline desks, with a customer whom a second model plays."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from grpo_environments.bridges.environment import BridgedEnvironment
from grpo_environments.bridges.process import Package
from grpo_sdk.backend import Backend, Sampling

Domain = Literal["retail", "airline"]


class Tau2Environment(BridgedEnvironment):
    """τ²-bench: a customer, played by a model, asks for something that a policy may forbid.

    The customer's model knows the scenario, the agent its policy and tools; the episode ends when the
    customer says so. ``outcome``: ``success``, as the scorer of inspect-evals says it (whether the database
    is as it should be, and what had to be said was said), and ``explanation``. The benchmark's own split
    of tasks is used: ``train``, and ``test`` as what is held out.
    """

    package = Package(
        "inspect-evals",
        "inspect_evals",
        "inspect-ai toml && DIRECTORY/bin/pip install --no-deps inspect-evals",
        "tau2_side",
    )

    def __init__(
        self,
        *,
        user: Backend,
        domain: Domain = "retail",
        user_tokens: int = 512,
        message_limit: int = 100,
        venv: Path | None = None,
    ) -> None:
        """Set the options.

        ``user``: the backend that plays the customer, at temperature 0; what it says is never trained.
        ``user_tokens``: its longest message. ``message_limit``: the most messages of the customer.
        ``venv``: the virtual environment that has the package inspect-evals; without it, the host's own.
        """
        super().__init__(
            venv,
            {"domain": domain, "message_limit": message_limit},
            other=user,
            sampling=Sampling(max_tokens=user_tokens, temperature=0.0),
        )
