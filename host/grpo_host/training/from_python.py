"""A training run of Python objects: an agent, an environment and rewards that their owner made.

The run is the one that agent.yaml describes, with the same directory, report and checkpoints. With
one rank it goes on in this process, on the owner's event loop; with more, torch elastic starts a
process for each, which make the agent again from what it is made of.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from grpo_host.agents.agent import Agent
from grpo_host.agents.rendering import make_renderer
from grpo_host.assembly.from_yaml import Parts
from grpo_host.assembly.runtime import Assembly
from grpo_host.backends.event_loop import Runner
from grpo_host.backends.lifetime import close_backends, start_backend
from grpo_host.backends.local_model import installed_plugins
from grpo_host.backends.threaded import ThreadedBackend
from grpo_host.config.resolved import dump_plain
from grpo_host.config.training_checks import check_context, check_output, check_training
from grpo_host.rollouts.scoring import WeightedReward
from grpo_host.runs.versions import installed_versions
from grpo_host.training.from_yaml import open_directory
from grpo_host.training.interrupt import Interrupt
from grpo_host.training.ranks.process_group import Ranks, python_module
from grpo_host.training.trained_backend import saved, served
from grpo_host.training.training_run import TrainingRun
from grpo_host.utils.progress import Reporter
from grpo_host.utils.validation import say_location
from grpo_sdk.backend import Backend, Capability, ModelSpec
from grpo_sdk.blocking import call_blocking
from grpo_sdk.environment import Environment
from grpo_sdk.errors import CapabilityError, ConfigError, RunError
from grpo_sdk.seeds import global_generators_kept

if TYPE_CHECKING:
    from grpo_host.config.schema import AgentConfig
    from grpo_host.training.policy import Policy


@dataclass
class ObjectAssembly(Assembly):
    """Parts that somebody else made; the agent is started, and stays so, unless it is ``owned``."""

    agent: Agent
    owned: bool = False
    """Made for this run alone."""

    async def start(self) -> Agent:
        backend = self.agent.backend
        if not self.owned:
            return self.agent
        await start_backend(backend)
        speaks_tokens = Capability.TOKEN_IDS in backend.capabilities
        renderer = make_renderer(backend.tokenizer, backend.model) if speaks_tokens else None
        return replace(self.agent, renderer=renderer)

    async def close(self) -> None:
        if self.owned:
            await close_backends(self.agent.backend)


@dataclass(frozen=True)
class Finished:
    """What a run came to."""

    directory: Path
    result: Path
    """The adapter, or the whole model."""
    policy: Policy


@dataclass(frozen=True)
class ObjectRun:
    """What is to be trained. ``config`` says how; the plugins that it names are only descriptions."""

    config: AgentConfig
    agent: Agent
    environment: Callable[[], Environment]
    rewards: list[WeightedReward]
    resume: str | None = None
    quiet: bool = False

    def check(self) -> None:
        """Raise ``ConfigError`` for numbers that do not go together."""
        checks = (check_training, check_context, check_output)
        complaints = [c for check in checks for c in check(self.config)]
        if complaints:
            raise ConfigError("; ".join(f"{say_location(c.location)}: {c.message}" for c in complaints))

    def describe(self) -> str:
        """The text of the run's agent.yaml."""
        versions = [f"{name} {number}" for name, number in installed_versions().items()]
        return dump_plain(
            self.config,
            comments=[
                "Made from Python objects, which it names: it can be read, not run again.",
                "Made with " + ", ".join(versions),
            ],
        )

    def execute(self, loop: Runner, interrupt: Interrupt, ranks: Ranks, *, owned: bool) -> Finished:
        """Train, in a thread that is not the loop's.

        Raises ``StopTraining`` if ``interrupt`` ended it, after a checkpoint.
        """
        reporter = Reporter(quiet=self.quiet or not ranks.main)
        directory = open_directory(self.config, ranks, reporter, resume=self.resume, describe=self.describe)
        try:
            reporter.line(f"run {directory.path}")
            parts = Parts(self.rewards, [], self.agent.strategy, self.environment, self.agent.backend)
            assembly = ObjectAssembly(self.config, parts, self.agent, owned)
            run = TrainingRun(self.config, assembly, directory, loop, reporter, interrupt, ranks=ranks)
            try:
                run.execute()
            finally:
                run.close()
            if run.policy is None:
                raise ValueError("a run that was executed has a policy")
            return Finished(directory.path, run.result, run.policy)
        finally:
            directory.release()


async def train_here(run: ObjectRun) -> Path:
    """Train in this process; the agent's backend then has the trained weights. The run's directory.

    If the call is cancelled, a checkpoint is saved first.
    """
    backend = run.agent.backend
    await call_blocking(served, backend)
    interrupt = Interrupt()
    loop = Runner(asyncio.get_running_loop())

    def execute() -> Finished:
        with global_generators_kept():
            return run.execute(loop, interrupt, Ranks(), owned=False)

    work = asyncio.ensure_future(call_blocking(execute))
    try:
        finished = await asyncio.shield(work)
    except asyncio.CancelledError:
        interrupt.signal = signal.SIGINT
        await asyncio.gather(work, return_exceptions=True)
        raise
    await finished.policy.sync(backend)
    saved(backend, finished.result, adapter=finished.policy.has_adapter)
    return finished.directory


async def train_in_ranks(run: ObjectRun) -> Path:
    """Train in ``training.world_size`` processes of this machine, as ``train_here`` otherwise."""
    size = run.config.training.world_size
    await call_blocking(served, run.agent.backend)
    portable = replace(run, agent=_portable(run.agent))
    with tempfile.TemporaryDirectory(prefix="grpo-ranks-") as folder:
        payload = Path(folder) / "run.pkl"
        _pickle(portable, payload)
        command = python_module("grpo_host.training.ranks.worker", str(payload), str(size))
        command += [run.config.training.accelerate] if run.config.training.accelerate else []
        process = await asyncio.create_subprocess_exec(*command)
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            process.send_signal(signal.SIGTERM)
            await process.wait()
            raise
        said = _read_result(payload)
    if code or "run" not in said:
        raise RunError(said.get("error") or f"the ranks ended with exit code {code}; why stands above")
    directory = Path(said["run"])
    policy = await call_blocking(lambda: _trained_policy(run, Path(said["result"])))
    await policy.sync(run.agent.backend)
    saved(run.agent.backend, Path(said["result"]), adapter=policy.has_adapter)
    return directory


def _trained_policy(run: ObjectRun, result: Path) -> Policy:
    from grpo_host.training.policy import load_policy

    spec = run.agent.backend.model
    if spec.path is None:
        raise ValueError("a trainable backend has a local model")
    config = run.config
    with global_generators_kept():
        return load_policy(
            spec.path,
            dtype=config.model.dtype,
            lora=config.training.lora,
            adapter=result,
            seed=config.seed,
            hub_id=spec.hub_id,
        )


def _portable(agent: Agent) -> Agent:
    """``agent`` on a backend that is made anew from its class, model and options, and not started."""
    backend = agent.backend
    portable: Any
    inner = backend.inner if isinstance(backend, ThreadedBackend) else backend
    if isinstance(backend, ThreadedBackend) and backend.chosen and Capability.RANKS not in inner.capabilities:
        # Nobody asked for this backend: the ranks may play on another.
        kind = installed_plugins().get("backend", "transformers").factory
        portable = PortableBackend(cast("type[Backend]", kind), inner.model)
    else:
        portable = PortableBackend.of(inner)
    return replace(agent, backend=portable, renderer=None)


@dataclass
class PortableBackend:
    """What a backend is made of."""

    kind: type[Backend]
    model: ModelSpec
    options: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(backend: Backend) -> PortableBackend:
        """Raises ``CapabilityError`` if the backend does not keep its options as attributes."""
        kind = type(backend)
        if Capability.RANKS not in kind.capabilities:
            raise CapabilityError(
                f"the backend {kind.__name__} does not work in one of several ranks; use transformers "
                "there, or train with world_size 1"
            )
        names = list(inspect.signature(kind).parameters)[1:]
        missing = [name for name in names if not hasattr(backend, name)]
        if missing:
            raise CapabilityError(
                f"the backend {kind.__name__} cannot be made again in other processes: it does not keep "
                f"its option {missing[0]}; train with world_size 1"
            )
        return PortableBackend(kind, backend.model, {name: getattr(backend, name) for name in names})

    def make(self) -> Backend:
        """A new one."""
        return self.kind(self.model, **self.options)


def _pickle(run: ObjectRun, path: Path) -> None:
    """Write ``run``, with functions and classes of a script or notebook in full. Raises ``ConfigError``."""
    import dill  # type: ignore[import-untyped]

    try:
        path.write_bytes(dill.dumps(run, recurse=True))
    except Exception as problem:  # whatever the objects hold
        raise ConfigError(
            f"the environment, the rewards or the agent's tools cannot be sent to other processes "
            f"({type(problem).__name__}: {str(problem)[:200]}). Give classes or functions that make what "
            "cannot be copied, or train with world_size 1"
        ) from problem


def _read_result(payload: Path) -> dict[str, Any]:
    path = payload.with_suffix(".json")
    if not path.is_file():
        return {}
    said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return said
