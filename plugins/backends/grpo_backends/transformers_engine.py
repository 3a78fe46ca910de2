"""The backend ``transformers``: plain PyTorch generation, for machines without vLLM."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from grpo_backends.adapters import merged_weights
from grpo_backends.engine_thread import EngineThread
from grpo_backends.limits import room_for_answer
from grpo_sdk import (
    Backend,
    Capability,
    MissingExtraError,
    ModelError,
    ModelSpec,
    Sampling,
    TokenReply,
    derive_seed,
)
from grpo_sdk.adapters import check_adapter
from grpo_sdk.blocking import call_blocking
from grpo_sdk.errors import BusyError, RunError
from grpo_sdk.weights import load_model

if TYPE_CHECKING:
    from grpo_backends.transformers_batch import BatchEngine, Row
    from grpo_sdk.backend import NamedWeights, Tokenizer


class TransformersBackend(Backend):
    """A transformers causal language model whose cache is attention keys and values.

    Requests that arrive within ``window`` seconds are generated together, at most ``max_batch``;
    later ones join them. ``prefix_cache`` GiB hold keys and values of former requests: the next turn of
    an episode computes its new tokens alone. ``seed`` draws the seeds of requests without one.
    ``deterministic`` generates each alone and anew: what it is given hangs on nothing but itself, to the
    last bit.
    """

    capabilities = frozenset(
        {
            Capability.TOKEN_IDS,
            Capability.LOGPROBS,
            Capability.WEIGHT_SYNC,
            Capability.SEED,
            Capability.STRUCTURED,
            Capability.ADAPTERS,
            Capability.LOCAL_WEIGHTS,
            Capability.RANKS,
        }
    )
    requires: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    extra: ClassVar[str] = "train"

    def __init__(
        self,
        model: ModelSpec,
        *,
        max_batch: int = 64,
        window: float = 0.005,
        prefix_cache: float = 1.0,
        seed: int = 0,
        deterministic: bool = False,
    ) -> None:
        super().__init__(model)
        if max_batch < 1 or window < 0 or prefix_cache < 0:
            raise ValueError(
                "max_batch must be at least 1, window (seconds) and prefix_cache (GiB) not below 0"
            )
        self.deterministic = deterministic
        self.max_batch = 1 if deterministic else max_batch
        self.window = window
        self.prefix_cache = 0.0 if deterministic else prefix_cache
        self.seed = seed
        self.weight_version = 0
        """The ``version`` of the last ``update_weights``."""
        self._thread: EngineThread | None = None
        self._tokenizer: Tokenizer | None = None
        self._under_way = 0
        self._unseeded = count()

    async def start(self) -> None:
        if self.model.adapter is not None:
            await call_blocking(check_adapter, self.model.adapter, self.model)
        thread = EngineThread(self._make, lambda _: None)
        try:
            await thread.start()
            self._thread = thread
            if self.model.adapter is not None:
                await self._merge(self.model.adapter)
        except BaseException:
            self._thread = None
            thread.stop()
            raise

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise RuntimeError("the backend transformers has no tokenizer before start()")
        return self._tokenizer

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        thread = self._started()
        params = self._params(prompt, sampling)
        self._under_way += 1
        try:
            return _reply(await thread.generate(prompt, params))
        finally:
            self._under_way -= 1

    async def stream_ids(
        self, prompt: Sequence[int], sampling: Sampling
    ) -> AsyncIterator[list[int] | TokenReply]:
        thread = self._started()
        params = self._params(prompt, sampling)
        self._under_way += 1
        try:
            async with aclosing(thread.stream(prompt, params, _ids)) as items:
                async for item in items:
                    yield item if isinstance(item, list) else _reply(item)
        finally:
            self._under_way -= 1

    def _params(self, prompt: Sequence[int], sampling: Sampling) -> Sampling:
        room = room_for_answer(prompt, self.model)
        seed = sampling.seed
        if seed is None:
            seed = derive_seed("unseeded", self.seed, next(self._unseeded))
        return replace(sampling, seed=seed, max_tokens=min(sampling.max_tokens, room))

    async def update_weights(self, weights: NamedWeights, *, version: int) -> None:
        """Replace the weights that are named.

        Raises ``RunError`` if requests are under way or a name is none of the model's.
        """
        thread = self._started()
        if self._under_way:
            raise BusyError(
                f"update_weights: {self._under_way} requests are under way, whose tokens would come "
                "from two policies; await or cancel them first"
            )

        def copy(engine: Any) -> None:
            engine.forget()
            _copy(engine, weights)
            self.weight_version = version

        await thread.call(copy)

    async def load_adapter(self, path: Path) -> None:
        """Merge the adapter into the model's weights and serve them from now on.

        Raises ``ModelError`` if the adapter cannot be read or does not fit.
        """
        await call_blocking(check_adapter, path, self.model)
        await self._merge(path)

    async def _merge(self, adapter: Path) -> None:
        weights = merged_weights(self._directory, adapter, self.model.dtype)
        await self.update_weights(weights, version=self.weight_version)

    @property
    def _directory(self) -> Path:
        if self.model.path is None:
            raise ModelError(f'the backend transformers needs the directory of model "{self.model.name}"')
        return self.model.path

    def _started(self) -> EngineThread:
        if self._thread is None:
            raise RuntimeError("the backend transformers is not running; await start() first")
        return self._thread

    def _make(self) -> BatchEngine:
        try:
            import torch
            from transformers import AutoTokenizer

            from grpo_backends.transformers_batch import BatchEngine
        except ImportError as problem:
            package = problem.name or "transformers"
            raise MissingExtraError("the backend transformers", package, self.extra) from problem
        try:
            tokenizer = AutoTokenizer.from_pretrained(self._directory)
            model = load_model(self._directory, getattr(torch, self.model.dtype))
        except (OSError, ValueError, RuntimeError, KeyError, AttributeError) as problem:
            raise ModelError(
                f'the backend transformers cannot load "{self.model.name}" from '
                f"{self._directory}: {' '.join(str(problem).split())[:600]}"
            ) from problem
        self._tokenizer = tokenizer
        return BatchEngine(
            model.to("cuda" if torch.cuda.is_available() else "cpu").eval(),
            tokenizer,
            end_ids=_end_ids(model, tokenizer),
            max_batch=self.max_batch,
            window=self.window,
            prefix_cache=self.prefix_cache,
        )


def _ids(row: Row) -> Sequence[int]:
    return row.ids


def _reply(row: Row) -> TokenReply:
    assert row.finish_reason is not None
    return TokenReply(row.ids, row.logprobs, row.finish_reason)


def _end_ids(model: Any, tokenizer: Tokenizer) -> set[int]:
    """The ids that end a reply: the tokenizer's, and those of the generation configuration."""
    configured = model.generation_config.eos_token_id
    ids = configured if isinstance(configured, list) else [configured]
    return {id for id in [*ids, tokenizer.eos_token_id] if id is not None}


def _copy(engine: Any, weights: NamedWeights) -> None:
    import torch

    own = engine.model.state_dict()
    with torch.no_grad():
        for name, tensor in weights:
            if name not in own:
                raise RunError(
                    f"update_weights: the model has no weight {name}; send adapters merged and "
                    "under the base model's names"
                )
            own[name].copy_(tensor)
