"""The backend ``transformers``: plain PyTorch generation, for machines without vLLM."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, ClassVar

from grpo_backends.engine_backend import EngineBackend
from grpo_backends.limits import room_for_answer
from grpo_sdk import Capability, ModelSpec, Sampling, TokenReply, derive_seed
from grpo_sdk.errors import RunError
from grpo_sdk.weights import load_model

if TYPE_CHECKING:
    from grpo_backends.transformers_batch import BatchEngine, Row
    from grpo_sdk.backend import NamedWeights, Tokenizer


class TransformersBackend(EngineBackend):
    """A transformers causal language model whose cache is attention keys and values.

    Requests that arrive within ``window`` seconds are generated together, at most ``max_batch``;
    later ones join them. ``prefix_cache`` GiB hold keys and values of former requests: the next turn of
    an episode computes its new tokens alone. ``seed`` draws the seeds of requests without one.
    ``deterministic`` generates each alone and anew: what it is given hangs on nothing but itself, to the
    last bit.
    """

    NAME = "transformers"
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
        self._unseeded = count()

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        thread = self._started()
        params = self._params(prompt, sampling)
        with self._counted():
            return _reply(await thread.generate(prompt, params))

    async def stream_ids(
        self, prompt: Sequence[int], sampling: Sampling
    ) -> AsyncIterator[list[int] | TokenReply]:
        thread = self._started()
        params = self._params(prompt, sampling)
        with self._counted():
            async with aclosing(thread.stream(prompt, params, _ids)) as items:
                async for item in items:
                    yield item if isinstance(item, list) else _reply(item)

    def _params(self, prompt: Sequence[int], sampling: Sampling) -> Sampling:
        room = room_for_answer(prompt, self.model)
        seed = sampling.seed
        if seed is None:
            seed = derive_seed("unseeded", self.seed, next(self._unseeded))
        return replace(sampling, seed=seed, max_tokens=min(sampling.max_tokens, room))

    def _make(self) -> BatchEngine:
        try:
            import torch
            from transformers import AutoTokenizer

            from grpo_backends.transformers_batch import BatchEngine
        except ImportError as problem:
            raise self._missing(problem) from problem
        try:
            tokenizer = AutoTokenizer.from_pretrained(self._directory)
            model = load_model(self._directory, getattr(torch, self.model.dtype))
        except (OSError, ValueError, RuntimeError, KeyError, AttributeError) as problem:
            raise self._unloadable(problem) from problem
        self._tokenizer = tokenizer
        return BatchEngine(
            model.to("cuda" if torch.cuda.is_available() else "cpu").eval(),
            tokenizer,
            end_ids=_end_ids(model, tokenizer),
            max_batch=self.max_batch,
            window=self.window,
            prefix_cache=self.prefix_cache,
        )

    def _replace_weights(self, engine: BatchEngine, weights: NamedWeights) -> None:
        import torch

        engine.forget()
        own = engine.model.state_dict()
        with torch.no_grad():
            for name, tensor in weights:
                if name not in own:
                    raise RunError(
                        f"update_weights: the model has no weight {name}; send adapters merged and "
                        "under the base model's names"
                    )
                own[name].copy_(tensor)


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
