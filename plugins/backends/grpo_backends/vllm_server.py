"""The backend ``vllm_server``: one or many ``vllm serve``, started by the run or elsewhere."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from grpo_backends import vllm_wire as wire
from grpo_backends.errors import PassingError
from grpo_backends.limits import room_for_answer
from grpo_backends.replica_pool import Replica, ReplicaPool
from grpo_backends.replica_process import RANKS, ReplicaProcess, ServerSettings, started
from grpo_backends.servers import addresses_of, check_server, make_replica
from grpo_backends.trace_context import head_lines
from grpo_sdk import (
    Backend,
    Capability,
    ConfigError,
    MissingExtraError,
    ModelError,
    ModelSpec,
    Sampling,
    TokenReply,
)
from grpo_sdk.adapters import adapter_settings, check_adapter
from grpo_sdk.blocking import call_blocking
from grpo_sdk.errors import RunError

if TYPE_CHECKING:
    from grpo_backends.http_connection import Response
    from grpo_sdk.backend import Tokenizer


logger = logging.getLogger("grpo_backends.replicas")


@dataclass(frozen=True)
class _Policy:
    """What is sampled from."""

    name: str
    version: int


class VllmServerBackend(Backend):
    """Stock ``vllm serve`` replicas, asked for token ids over HTTP.

    ``replicas`` is how many the run starts on this machine; or ``servers`` are the addresses of some that
    run elsewhere: of a host name with several addresses (a headless service of Kubernetes) each is one
    replica, and those that come later join with the next weights. A request goes to the replica that has
    answered the episode before, or to the one with the least to do, and to another one if that dies.

    New weights are a LoRA adapter, written to the directory ``adapters``, which servers elsewhere have to
    see under the same path, and loaded under a name of its own for every version.
    ``max_lora_rank`` is the largest rank; ``extra_args`` is added to the command line. ``gpus`` are
    those of the replicas, ``tensor_parallel_size`` for each; None: all that ``vllm serve`` finds.
    ``timeout`` is for one answer, ``start_seconds`` for a replica to be ready, in seconds; ``retries`` is how
    often a request is sent to another replica.
    """

    capabilities = frozenset(
        {
            Capability.TOKEN_IDS,
            Capability.LOGPROBS,
            Capability.WEIGHT_SYNC,
            Capability.ADAPTER_SYNC,
            Capability.SEED,
            Capability.STRUCTURED,
            Capability.ADAPTERS,
            Capability.LOCAL_WEIGHTS,
            Capability.RANKS,
        }
    )
    requires: ClassVar[tuple[str, ...]] = ("transformers",)
    extra: ClassVar[str] = "cpu"

    def __init__(
        self,
        model: ModelSpec,
        *,
        replicas: int = 1,
        servers: list[str] | None = None,
        adapters: str | None = None,
        api_key: str | None = None,
        max_lora_rank: int = 16,
        max_num_seqs: int = 64,
        kv_cache_gib: float = 1.0,
        gpu_memory_utilization: float = 0.85,
        tensor_parallel_size: int = 1,
        gpus: list[int] | None = None,
        seed: int = 0,
        timeout: float = 600.0,
        start_seconds: float = 600.0,
        retries: int = 3,
        extra_args: list[str] | None = None,
    ) -> None:
        super().__init__(model)
        if replicas < 1 or max_num_seqs < 1 or tensor_parallel_size < 1:
            raise ValueError("replicas, max_num_seqs and tensor_parallel_size must be at least 1")
        if retries < 0:
            raise ValueError("retries must be at least 0")
        if not 1 <= max_lora_rank <= RANKS[-1]:
            raise ValueError(f"max_lora_rank must be between 1 and {RANKS[-1]}")
        if kv_cache_gib <= 0 or timeout <= 0 or start_seconds <= 0:
            raise ValueError("kv_cache_gib, timeout and start_seconds must be above 0")
        if gpus is not None and len(gpus) != replicas * tensor_parallel_size:
            raise ValueError(
                f"gpus names {len(gpus)}, and {replicas} replicas take {replicas * tensor_parallel_size}"
            )
        if servers is not None and not servers:
            raise ValueError("servers is empty; leave it out, or name at least one address")
        self.replicas = replicas
        self.servers = servers
        self.adapters = None if adapters is None else Path(adapters)
        self.api_key = api_key
        self.max_lora_rank = max_lora_rank
        self.max_num_seqs = max_num_seqs
        self.kv_cache_gib = kv_cache_gib
        self.gpu_memory_utilization = gpu_memory_utilization
        self.tensor_parallel_size = tensor_parallel_size
        self.gpus = gpus
        self.seed = seed
        self.timeout = timeout
        self.start_seconds = start_seconds
        self.retries = retries
        self.extra_args = extra_args or []
        self.weight_version = 0
        """The ``version`` of the last ``update_adapter``."""
        self._tokenizer: Tokenizer | None = None
        self._pool: ReplicaPool | None = None
        self._base = model.name
        """What the servers call the model without an adapter."""
        self._token = secrets.token_hex(4)
        """Tells the adapters of this run from those of others on the same servers."""
        self._connection: Mapping[str, Any] | None = None
        self._serial = 0
        """Counts the adapters: a version may come twice."""
        self._policies: list[_Policy] = []
        """Those that replicas have, the newest last."""
        self._under_way: Counter[_Policy] = Counter()
        self._ended = asyncio.Event()
        self._own: Path | None = None
        """A temporary directory."""

    # Start and end.

    async def start(self) -> None:
        if self.model.adapter is not None:
            await call_blocking(check_adapter, self.model.adapter, self.model)
        if self._connection is None and self.directory is not None:
            # Of the same run before it was killed: nobody samples from them any more.
            await call_blocking(shutil.rmtree, self._places(), True)
        try:
            self._tokenizer = await call_blocking(self._load_tokenizer)
            if self._connection is not None:
                made = [self._replica(address) for address in self._connection["servers"]]
            elif self.servers is not None:
                made = [self._replica(address) for address in await addresses_of(self.servers)]
            else:
                made = await call_blocking(self._start_replicas)
            self._pool = ReplicaPool(
                made, retries=self.retries, patience=self.start_seconds, check=self._check
            )
            await self._pool.start()
            if self.model.adapter is not None:
                path = self.model.adapter if self._connection is None else None
                await self.update_adapter(path, version=self.weight_version)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            if self._connection is None and self.servers is not None:  # others end, and may be busy
                for policy in self._policies:
                    await pool.drop(policy.name)
            await pool.close()
        if self._connection is None:
            for policy in self._policies:
                shutil.rmtree(self._places() / policy.name, ignore_errors=True)
        self._policies.clear()
        own, self._own = self._own, None
        if own is not None:
            shutil.rmtree(own, ignore_errors=True)

    @property
    def retried(self) -> Counter[str]:
        """How many requests went to another replica, by the address of the one that failed."""
        return self._running().retried

    def connection(self) -> Mapping[str, Any]:
        pool = self._running()
        return {
            "servers": [replica.address for replica in pool.replicas],
            "adapters": str(self._places()),
            "token": self._token,
        }

    def connect(self, connection: Mapping[str, Any]) -> None:
        self._connection = connection
        self._token = str(connection["token"])

    def _load_tokenizer(self) -> Tokenizer:
        from transformers import AutoTokenizer

        tokenizer: Tokenizer = AutoTokenizer.from_pretrained(self._model_path())
        return tokenizer

    def _model_path(self) -> Path:
        if self.model.path is None:
            raise ModelError(f'the backend vllm_server needs the directory of model "{self.model.name}"')
        return self.model.path

    def _start_replicas(self) -> list[Replica]:
        if find_spec("vllm") is None:
            raise MissingExtraError("starting a replica", "vllm", self.extra)
        import torch

        processes = started(
            ServerSettings(
                model=self._model_path(),
                name=self._base,
                dtype=self.model.dtype,
                context=self.model.context,
                max_num_seqs=self.max_num_seqs,
                kv_cache_gib=self.kv_cache_gib,
                gpu_memory_utilization=self.gpu_memory_utilization,
                tensor_parallel_size=self.tensor_parallel_size,
                max_lora_rank=self.max_lora_rank,
                adapters=self.max_staleness + 2,
                seed=self.seed,
                threads=max(1, (os.cpu_count() or 1) // self.replicas),
                extra=self.extra_args,
            ),
            self.replicas,
            gpus=self.gpus or (),
            logs=self._home(),
            on_cpu=not torch.cuda.is_available(),
        )
        return [self._replica(process.address, process) for process in processes]

    def _replica(self, address: str, process: ReplicaProcess | None = None) -> Replica:
        return make_replica(address, self.api_key, timeout=self.timeout, process=process)

    async def _check(self, replica: Replica) -> None:
        self._base = await check_server(replica, self._base, self.model.context)

    # Sampling.

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise RuntimeError("the backend vllm_server has no tokenizer before start()")
        return self._tokenizer

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        pool = self._running()
        room = room_for_answer(prompt, self.model)
        policy = self._policy
        body = wire.request_body(policy.name, prompt, sampling, max_tokens=min(sampling.max_tokens, room))
        lines = head_lines()

        async def call(replica: Replica) -> TokenReply:
            response = await replica.client.post(wire.PATH, body, lines)
            self._raise_for(response, replica, sampling)
            reply = wire.reply(response.body, replica.address, policy.version)
            pool.remember(prompt, reply.ids, replica)
            return reply

        with self._counted(policy):
            return await pool.ask(prompt, call)

    async def stream_ids(
        self, prompt: Sequence[int], sampling: Sampling
    ) -> AsyncIterator[list[int] | TokenReply]:
        """As ``generate``; a stream that breaks raises, since what was yielded cannot be taken back."""
        pool = self._running()
        room = room_for_answer(prompt, self.model)
        policy = self._policy
        body = wire.request_body(
            policy.name, prompt, sampling, max_tokens=min(sampling.max_tokens, room), stream=True
        )
        lines = head_lines()

        async def call(replica: Replica) -> tuple[AsyncExitStack, AsyncIterator[bytes], Replica]:
            async with AsyncExitStack() as stack:
                streamed = replica.client.stream(wire.PATH, body, lines)
                head, chunks = await stack.enter_async_context(streamed)
                if head.status != 200:
                    head.body = b"".join([chunk async for chunk in chunks])
                    self._raise_for(head, replica, sampling)
                replica.load += 1
                stack.callback(_one_less, replica)
                return stack.pop_all(), chunks, replica

        with self._counted(policy):
            begun, chunks, replica = await pool.ask(prompt, call)
            async with begun:
                gathered = wire.StreamedTokens(replica.address, policy.version, sampling)
                async for chunk in chunks:
                    for ids in gathered.feed(chunk):
                        yield ids
                reply = gathered.reply()
                pool.remember(prompt, reply.ids, replica)
                yield reply

    def _raise_for(self, response: Response, replica: Replica, sampling: Sampling) -> None:
        if response.status == 200:
            return
        words = wire.said(response.body)
        adapter_lost = response.status == 404 and self._policies
        failed_alone = sampling.grammar is not None and words == wire.FAILED_ALONE
        passes = response.status in (408, 429) or response.status >= 500 or adapter_lost
        if passes and not failed_alone:
            raise PassingError(
                f"{replica.address}: status {response.status}: {words}", status=response.status
            )
        raise wire.refusal(response.status, response.body, replica.address, sampling)

    @property
    def _policy(self) -> _Policy:
        return self._policies[-1] if self._policies else _Policy(self._base, self.weight_version)

    @contextmanager
    def _counted(self, policy: _Policy) -> Iterator[None]:
        """Let new weights know of a request of ``policy``."""
        self._under_way[policy] += 1
        try:
            yield
        finally:
            self._under_way[policy] -= 1
            if not self._under_way[policy]:
                del self._under_way[policy]
            self._ended.set()

    def _running(self) -> ReplicaPool:
        if self._pool is None:
            raise RuntimeError("the backend vllm_server is not running; await start() first")
        return self._pool

    # New weights.

    async def load_adapter(self, path: Path) -> None:
        """Serve the adapter from now on. Raises ``ModelError`` if it is none of this model."""
        await call_blocking(check_adapter, path, self.model)
        await self.update_adapter(path, version=self.weight_version)

    async def update_adapter(self, path: Path | None, *, version: int) -> None:
        """As ``Backend.update_adapter``; returns when no answer is under way that is too old.

        Raises ``ModelError`` if its rank is larger than ``max_lora_rank``.
        """
        pool = self._running()
        self._serial += 1
        policy = _Policy(f"{self._token}-{self._serial}-v{version}", version)
        place = self._places() / policy.name
        if path is None:
            pool.adapters[policy.name] = place
        else:
            self._check_rank(path)
            try:
                await call_blocking(_copied, path, place)
            except OSError as problem:
                raise RunError(
                    f"cannot write the adapter to {place}: {problem.strerror or problem}. Make room, or set "
                    "backend.options.adapters to another directory, and go on with --resume"
                ) from problem
            await self._meet_newcomers(pool)
            await pool.put(policy.name, place)
        self._policies.append(policy)
        self.weight_version = version
        old, self._policies = (
            self._policies[: -1 - self.max_staleness],
            self._policies[-1 - self.max_staleness :],
        )
        older = [policy for policy in self._under_way if policy not in self._policies]
        while any(self._under_way[policy] for policy in older):
            self._ended.clear()
            await self._ended.wait()
        for policy in old:
            if path is None:
                pool.adapters.pop(policy.name, None)
            else:
                await pool.drop(policy.name)
                await call_blocking(shutil.rmtree, self._places() / policy.name, True)

    def _check_rank(self, path: Path) -> None:
        rank = adapter_settings(path).get("r", 0)
        if self.servers is None and rank > self.max_lora_rank:
            raise ModelError(
                f"the adapter at {path} has rank {rank}, and the replicas take {self.max_lora_rank}. Set "
                f"backend.options.max_lora_rank to {rank}"
            )

    async def _meet_newcomers(self, pool: ReplicaPool) -> None:
        """Take in replicas that a host's name stands for by now, and let go of those that it does not."""
        if self.servers is None or self._connection is not None:
            return
        try:
            addresses = await addresses_of(self.servers)
        except ConfigError as problem:  # no replica is ready at the moment, or the name server
            logger.warning("%s; those that are known stay", problem)
            return
        known = {replica.address for replica in pool.replicas}
        for address in addresses:
            if address not in known:
                pool.join(self._replica(address))
        for replica in [replica for replica in pool.replicas if replica.address not in addresses]:
            await pool.drain(replica)

    def _places(self) -> Path:
        """Where adapters lie for the servers."""
        if self._connection is not None:
            return Path(self._connection["adapters"])
        if self.adapters is None:
            return (self._home() / "adapters").resolve()
        # Other runs may use the same directory.
        return (self.adapters / self.directory.name if self.directory else self.adapters).resolve()

    def _home(self) -> Path:
        if self.directory is not None:
            return self.directory / "replicas"
        if self._own is None:
            self._own = Path(tempfile.mkdtemp(prefix="grpo-replicas-"))
        return self._own


def _one_less(replica: Replica) -> None:
    replica.load -= 1


def _copied(path: Path, place: Path) -> None:
    """Put a copy of the adapter at ``path`` at ``place``: servers see the whole of it or nothing."""
    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(path, partial, ignore=shutil.ignore_patterns("optimizer*", "rng_state*", "*.pt", "runs"))
    for file in partial.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    partial.replace(place)
