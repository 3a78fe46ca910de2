"""Training in several processes, the ranks of a torch process group, on one machine or on several.

Each rank has its own copy of the policy and its own backend, or they share one engine, and plays its share
of a step's groups; gradients are averaged, so that the copies stay equal. Rank 0 alone writes and prints.
torch elastic (what ``torchrun`` runs on) starts the ranks, ends all of them when one fails, and starts them
again from the last checkpoint if it may.
"""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from grpo_host.training.ranks.restarts import remembered_launch
from grpo_host.training.ranks.sharding import is_sharding_asked, prepare_sharding, read_configuration
from grpo_sdk.errors import ConfigError, RunError

T = TypeVar("T")

LAUNCHED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher sets."""
WAIT = timedelta(minutes=30)
"""How long ranks wait for one that is behind; then it counts as stuck, and all end."""
STOP_SECONDS = 600
"""How long ranks that were asked to stop may take to end their step and save it."""
EXPECTED = (2, 129, 130, 143)
"""Exit codes of a rank that has said itself why it ended."""


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that train together. By default it is alone."""

    rank: int = 0
    size: int = 1
    group: Any = None
    """The process group through which ranks tell each other Python objects; on CPU."""
    sharded: bool = False
    """Trainers spread the model over the ranks, each of which otherwise holds the whole of it."""

    @property
    def main(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def gather(self, items: Sequence[T]) -> list[T]:
        """The items of all ranks, in the order of the ranks, on every rank.

        Raises ``RuntimeError`` if one of them has died, or does not come within ``WAIT``.
        """
        if self.size == 1:
            return list(items)
        import torch.distributed as dist

        everyone: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(everyone, list(items), group=self.group)
        except RuntimeError as problem:  # no error to mend: elastic may start all again
            raise RuntimeError(
                f"rank {self.rank} of {self.size} does not hear from the others: one has died (why stands "
                f"in its own words), or is stuck or {WAIT.total_seconds() / 60:g} minutes behind: "
                f"{str(problem).partition('. This is')[0]}"
            ) from None
        return [item for part in everyone for item in part]

    def broadcast(self, value: T) -> T:
        """The value that rank 0 passes."""
        return self.gather([value])[0]

    def any(self, flag: bool) -> bool:
        """Whether any rank passes true."""
        return any(self.gather([flag]))


def launched_ranks() -> int:
    """How many ranks torchrun, or ``launch``, has started this process as one of; 1 without them.

    Raises ``ConfigError`` if what a launcher sets is there in part, as a cluster's job may leave it:
    libraries would wait for processes that nobody has started.
    """
    for name in ("RANK", "LOCAL_RANK"):
        if name in os.environ and "WORLD_SIZE" not in os.environ:
            raise _left_over(f"{name} is set, and WORLD_SIZE is not")
    size = _number("WORLD_SIZE", 1) if "WORLD_SIZE" in os.environ else 1
    if size > 1 or "LOCAL_RANK" in os.environ:
        for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            if not os.environ.get(name):
                raise _left_over(f"WORLD_SIZE is {size}, and {name} is not set")
        if _number("RANK") >= size:
            raise _left_over(f"RANK is {os.environ['RANK']}, of WORLD_SIZE {size}, counted from 0")
        for name in ("LOCAL_RANK", "MASTER_PORT"):
            _number(name)
    return size


def is_launched() -> bool:
    """Whether torchrun, or ``launch``, has started this process."""
    return "LOCAL_RANK" in os.environ


def _number(name: str, least: int = 0) -> int:
    text = os.environ[name]
    if not (text.isascii() and text.isdecimal() and int(text) >= least):
        raise _left_over(f'{name} is "{text}", and no whole number from {least} on')
    return int(text)


def _left_over(what: str) -> ConfigError:
    return ConfigError(
        f"the environment variable {what}. To train in one process, unset it; to train in several, start "
        "them with torchrun, or say training.world_size"
    )


def is_main_process() -> bool:
    """Whether this process is rank 0, or alone, or cannot know."""
    try:
        return launched_ranks() == 1 or int(os.environ["RANK"]) == 0
    except ConfigError:
        return True


def join_ranks(wanted: int = 1, accelerate: str | None = None) -> Ranks:
    """Join the process group of the ranks that this process was started among.

    ``accelerate`` is a configuration of it that says how they share the model; None leaves that to
    ``accelerate launch``. Raises ``ConfigError`` if ranks are not as many as ``training.world_size`` asks
    for (1 leaves it to torchrun), or cannot share the model so.
    """
    if accelerate is not None:
        read_configuration(Path(accelerate))
    sharded = is_sharding_asked()
    size = launched_ranks()
    if wanted not in (1, size):
        raise ConfigError(
            f"training.world_size is {wanted}, and {size} processes were started. "
            "Leave it out, or start as many"
        )
    if size == 1:
        if sharded:
            raise ConfigError(
                "an accelerate configuration asks to shard the model, and there is one process. Start as "
                "many as there are GPUs (--nproc, training.world_size or accelerate launch), or leave it out"
            )
        for name in [*LAUNCHED, *(name for name in os.environ if name.startswith("TORCHELASTIC_"))]:
            os.environ.pop(name, None)  # libraries and engines would look for a process group
        return Ranks()
    import torch
    import torch.distributed as dist

    if sharded:
        prepare_sharding()
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # On CPU the Trainer restores its optimizer to the device "cpu:1", of which torch knows "cpu" alone.
    torch.serialization.register_package(
        0, lambda _: None, lambda storage, location: storage if location.startswith("cpu:") else None
    )
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        # torch elastic keeps its store from one start of the ranks to the next: without a prefix a rank
        # would find the addresses of those before.
        store, rank, _ = next(dist.rendezvous("env://"))
        store = dist.PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=WAIT)
    group = dist.new_group(backend="gloo", timeout=WAIT)
    return Ranks(dist.get_rank(), size, group, sharded)


def leave_ranks(ranks: Ranks) -> None:
    """Leave the process group, if there is one."""
    if ranks.size > 1:
        import torch.distributed as dist

        dist.destroy_process_group()


@dataclass(frozen=True)
class Nodes:
    """The machines whose ranks train together; each of them runs the same command."""

    count: int = 1
    endpoint: str = ""
    """``host:port`` of one of them, where they find each other; empty if there is one."""


def launch(command: Sequence[str], size: int, *, nodes: Nodes | None = None, max_restarts: int = 0) -> int:
    """Run ``command`` as ``size`` ranks on this machine and give their exit code.

    When a rank dies without saying why, all are started again, up to ``max_restarts`` times, and go on with
    the last checkpoint. A command, not a function of this process: ranks must not run the caller's main
    module again. Raises ``RunError`` if a rank died once more; its traceback stands above.
    """
    import torch
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if torch.cuda.is_available() and torch.cuda.device_count() < size:
        raise ConfigError(
            f"world_size {size} needs as many GPUs, and {torch.cuda.device_count()} are here. Lower it"
        )
    nodes = nodes or Nodes()
    # Together they would otherwise take as many threads each as there are cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // size)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=nodes.count,
        max_nodes=nodes.count,
        nproc_per_node=size,
        run_id=uuid.uuid4().hex if nodes.count == 1 else "grpo",
        rdzv_backend="c10d",
        rdzv_endpoint=nodes.endpoint or "localhost:0",
        max_restarts=max_restarts,
        monitor_interval=0.1,
        start_method="spawn",
        logs_specs=DefaultLogsSpecs(),
        shutdown_timeout=STOP_SECONDS,
    )
    try:
        with remembered_launch():
            elastic_launch(config, command[0])(*command[1:])
    except SignalException as problem:
        return 128 + int(problem.sigval)
    except ChildFailedError as problem:
        codes = {failure.exitcode for failure in problem.failures.values()}
        said = [code for code in EXPECTED if code in codes]
        if said:
            return said[0]
        rank, failure = problem.get_first_failure()
        raise RunError(
            f"rank {rank} of {size} ended with exit code {failure.exitcode}; all were stopped. "
            "Why stands above; go on with the last checkpoint with --resume"
        ) from None
    return 0


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs ``module`` with this interpreter."""
    return [sys.executable, "-m", module, *arguments]
