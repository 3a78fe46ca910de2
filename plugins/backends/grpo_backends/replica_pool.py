"""Many servers of one model: which one answers, which adapters all have, and what happens when one dies."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from grpo_backends.errors import HttpError, PassingError, ProviderError
from grpo_backends.prefix_affinity import PrefixAffinity
from grpo_backends.vllm_wire import said
from grpo_sdk.blocking import call_blocking
from grpo_sdk.errors import ConfigError, GrpoError, ModelError

if TYPE_CHECKING:
    from grpo_backends.keepalive import KeepAliveClient
    from grpo_backends.replica_process import ReplicaProcess

logger = logging.getLogger("grpo_backends.replicas")
T = TypeVar("T")

LOOK_EVERY = 2.0
"""Seconds between two looks at a replica's health."""
MISSED = 3
"""Looks in a row without an answer, until a replica counts as stuck."""
RESTARTS = 3
"""How often a replica that this run started is started again."""
JOIN_SECONDS = 30.0
"""How long a start waits for the other servers once one is ready."""


@dataclass(eq=False)
class Replica:
    """One server."""

    address: str
    """``http://host:port``."""
    client: KeepAliveClient
    """For answers, which take long."""
    control: KeepAliveClient
    """For its health and its adapters."""
    process: ReplicaProcess | None = None
    """If this run has started it."""
    load: int = 0
    """Requests of ours under way."""
    ready: bool = False
    leaving: bool = False
    """It gets no new requests, and goes when those under way have ended."""
    reason: str = "it has not answered yet"
    """Why it is not ready."""
    answered: bool = False
    """It has been ready once."""
    lost: bool = False
    """It will not be tried again."""
    restarts: int = 0
    calls: set[asyncio.Future[Any]] = field(default_factory=set)


class ReplicaPool:
    """Asks the replicas, each of which can do what the others can.

    A request has its whole history in it, so it is sent to another replica when the first one dies: none is
    lost while one replica is left or comes back within ``patience`` seconds.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        *,
        retries: int,
        patience: float,
        check: Callable[[Replica], Awaitable[None]],
    ) -> None:
        self.replicas = list(replicas)
        self.adapters: dict[str, Path] = {}
        """The LoRA adapters that a replica has to have."""
        self.retried: Counter[str] = Counter()
        """Requests that were sent to another replica, by the address of the one that failed."""
        self._retries = retries
        self._patience = patience
        self._check = check
        self._affinity = PrefixAffinity()
        self._changed = asyncio.Event()
        self._watches: dict[Replica, asyncio.Task[None]] = {}
        self._wrong: GrpoError | None = None

    async def start(self) -> None:
        """Return when the replicas can answer. Raises ``GrpoError`` if none can or one is set up wrongly."""
        for replica in self.replicas:
            self._watch(replica)
        ends = time.monotonic() + self._patience
        while not all(replica.ready for replica in self.replicas):
            own = [replica for replica in self.replicas if replica.process is not None]
            if self._wrong is not None or any(replica.lost for replica in own):
                break
            if any(replica.ready for replica in self.replicas) and not own:
                ends = min(ends, time.monotonic() + JOIN_SECONDS)
            if not await self._change(ends - time.monotonic()):
                break
        if self._wrong is not None:
            raise self._wrong
        missing = [replica for replica in self.replicas if not replica.ready]
        if len(missing) == len(self.replicas) or any(r.process is not None for r in missing):
            raise ModelError(self._nobody(missing))
        for replica in missing:
            logger.warning("%s: %s. It joins when it answers", replica.address, replica.reason)

    async def close(self) -> None:
        """End the watches, and the servers that were started here."""
        watches = list(self._watches.values())
        self._watches.clear()
        for watch in watches:
            watch.cancel()
        await asyncio.gather(*watches, return_exceptions=True)
        for replica in self.replicas:
            replica.ready = False
            replica.client.close()
            replica.control.close()
            if replica.process is not None:
                replica.process.ask_to_stop()  # all of them, before waiting for one
        for replica in self.replicas:
            if replica.process is not None:
                await call_blocking(replica.process.stop)

    def join(self, replica: Replica) -> None:
        """Let ``replica`` answer too, as soon as it is ready."""
        self.replicas.append(replica)
        self._watch(replica)

    async def drain(self, replica: Replica) -> None:
        """Give ``replica`` no new requests, wait for those under way, and let it go."""
        replica.leaving = True
        while replica.load:
            await self._change(LOOK_EVERY)
        watch = self._watches.pop(replica, None)
        if watch is not None:
            watch.cancel()
        with suppress(ValueError):
            self.replicas.remove(replica)
        replica.client.close()
        replica.control.close()
        if replica.process is not None:
            await call_blocking(replica.process.stop)

    async def ask(self, prompt: Sequence[int], call: Callable[[Replica], Awaitable[T]]) -> T:
        """What ``call`` gets from the replica that suits best, or from another one if that fails.

        Raises ``ProviderError`` if as many replicas failed as may be tried.
        """
        for attempt in range(self._retries + 1):
            replica = await self._choose(prompt)
            replica.load += 1
            asked: asyncio.Future[T] = asyncio.ensure_future(call(replica))
            replica.calls.add(asked)
            try:
                return await asked
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    asked.cancel()
                    raise
                problem = PassingError(f"{replica.address}: {replica.reason}")
            except PassingError as failure:
                problem = failure
                self._suspect(replica, str(failure))
            finally:
                replica.load -= 1
                replica.calls.discard(asked)
                self._tell()
            self.retried[replica.address] += 1
            logger.warning("%s; its request goes to another replica", problem)
            if attempt == self._retries:
                raise ProviderError(f"{problem} (tried {attempt + 1} times)")
        raise AssertionError("unreachable")

    def remember(self, prompt: Sequence[int], sampled: Sequence[int], replica: Replica) -> None:
        """``replica`` holds ``prompt`` and what it ``sampled``: it is to have what comes next."""
        self._affinity.remember(prompt, sampled, replica)

    async def put(self, name: str, path: Path) -> None:
        """Let all replicas have the adapter at ``path`` as ``name``; those that are down, when they are up.

        Raises ``ConfigError`` or ``ModelError`` if a replica refuses it.
        """
        self.adapters[name] = path
        ready = [replica for replica in self.replicas if replica.ready]

        async def load(replica: Replica) -> None:
            try:
                await self._load(replica, name, path)
            except PassingError as problem:
                self._suspect(replica, str(problem))

        try:
            await asyncio.gather(*(load(replica) for replica in ready))
        except GrpoError:
            del self.adapters[name]
            raise

    async def drop(self, name: str) -> None:
        """Let no replica have the adapter ``name`` any more."""
        self.adapters.pop(name, None)
        body = json.dumps({"lora_name": name}).encode()
        ready = [replica for replica in self.replicas if replica.ready]
        await asyncio.gather(
            *(replica.control.post("/v1/unload_lora_adapter", body) for replica in ready),
            return_exceptions=True,  # one that does not answer has none of it when it is back
        )

    async def _choose(self, prompt: Sequence[int]) -> Replica:
        ends = time.monotonic() + self._patience
        while True:
            ready = [replica for replica in self.replicas if replica.ready and not replica.leaving]
            if ready:
                return self._affinity.choose(prompt, ready)
            if all(r.lost for r in self.replicas) or not await self._change(ends - time.monotonic()):
                raise ProviderError(self._nobody(self.replicas))

    def _nobody(self, replicas: Sequence[Replica]) -> str:
        said = "; ".join(f"{replica.address}: {replica.reason}" for replica in replicas)
        return f"the backend vllm_server has no replica that answers: {said}"

    async def _load(self, replica: Replica, name: str, path: Path) -> None:
        body = json.dumps({"lora_name": name, "lora_path": str(path)}).encode()
        response = await replica.control.post("/v1/load_lora_adapter", body)
        words = said(response.body)
        if response.status == 200 or "already been loaded" in words:
            return
        if response.status == 404 and "lora" not in words.lower():
            raise ConfigError(
                f"{replica.address}: the server loads no adapters. Start it with --enable-lora and the "
                "environment variable VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
            )
        if response.status == 503:
            raise PassingError(f"{replica.address}: status 503: {words}")
        raise ModelError(
            f"{replica.address} does not load the adapter {path}: status {response.status}: {words}. It has "
            "to see that directory (options.adapters), and to allow its rank (--max-lora-rank)"
        )

    def _watch(self, replica: Replica) -> None:
        self._watches[replica] = asyncio.get_running_loop().create_task(self._keep(replica))

    async def _keep(self, replica: Replica) -> None:
        """Look after ``replica`` until it is lost: start it again, load adapters, notice that it is stuck."""
        begun, missed = time.monotonic(), 0
        while not replica.lost:
            process = replica.process
            if process is not None and process.exit_code is not None:
                if not await self._restart(replica, f"it ended with exit code {process.exit_code}"):
                    return
                begun, missed = time.monotonic(), 0
            try:
                response = await replica.control.get("/health")
                if response.status != 200:
                    raise HttpError(f"{replica.address}: /health answers with status {response.status}")
                if not replica.ready:
                    await self._welcome(replica)
                missed = 0
            except PassingError as problem:
                missed += 1
                if replica.ready and missed == MISSED:
                    self._give_up(replica, f"it is stuck: {problem}")
                elif not replica.ready:
                    replica.reason = str(problem)
                late = time.monotonic() - begun > self._patience
                if not replica.ready and late and process is not None:
                    if not await self._restart(replica, f"it was not ready within {self._patience:g} s"):
                        return
                    begun, missed = time.monotonic(), 0
            except GrpoError as problem:
                logger.warning("%s. It is not asked any more", problem)
                replica.reason, replica.lost, self._wrong = str(problem), True, problem
                self._tell()
                return
            begun = time.monotonic() if replica.ready else begun
            await asyncio.sleep(LOOK_EVERY if replica.ready else LOOK_EVERY / 8)

    async def _welcome(self, replica: Replica) -> None:
        """Let ``replica`` answer, with the adapters that all have."""
        await self._check(replica)
        loaded: set[str] = set()
        while missing := self.adapters.keys() - loaded:  # others may come meanwhile
            name = min(missing)
            try:
                await self._load(replica, name, self.adapters[name])
            except (ConfigError, ModelError):
                if name in self.adapters:
                    raise
                # Meanwhile it was dropped, and its directory removed.
            loaded.add(name)
        replica.ready = replica.answered = True
        self._tell()

    async def _restart(self, replica: Replica, why: str) -> bool:
        process = replica.process
        if process is None:
            raise AssertionError("only a process of ours is started again")
        self._give_up(replica, f"{why}; the last lines of {process.log}:\n{process.last_lines()}")
        if not replica.answered or replica.restarts == RESTARTS:
            replica.lost = True
            self._tell()
            return False
        replica.restarts += 1
        logger.warning(
            "%s: %s. It is started again (%d of %d)", replica.address, why, replica.restarts, RESTARTS
        )
        await call_blocking(process.start)
        return True

    def _suspect(self, replica: Replica, reason: str) -> None:
        """Do not ask ``replica`` again until it has answered about its health."""
        replica.ready, replica.reason = False, reason
        self._tell()

    def _give_up(self, replica: Replica, reason: str) -> None:
        """Send what ``replica`` was asked to others."""
        self._suspect(replica, reason)
        for call in list(replica.calls):
            call.cancel()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _change(self, seconds: float) -> bool:
        """Wait until something has changed; False if nothing has within ``seconds``."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True
