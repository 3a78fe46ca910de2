"""The backend ``vllm``: an engine in this process that batches concurrent requests continuously."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from grpo_backends.engine_backend import EngineBackend
from grpo_backends.limits import room_for_answer
from grpo_backends.turns import Turns
from grpo_backends.vllm_cpu import skip_compiling, use_inverse_sampling
from grpo_sdk import Capability, FinishReason, ModelSpec, Sampling, TokenReply
from grpo_sdk.errors import CapabilityError, RunError
from grpo_sdk.seeds import global_generators_kept
from grpo_sdk.weights import stored_weights, stored_wider

if TYPE_CHECKING:
    import torch

    from grpo_backends.engine_thread import EngineThread
    from grpo_sdk.backend import NamedWeights

_GIB = 1024**3
_CPU_BLOCK = 32
"""Tokens per KV block on CPU: vLLM's default of 128 reuses too little of a growing conversation."""


class VllmBackend(EngineBackend):
    """vLLM in this process, on CPU or GPU.

    ``kv_cache_gib`` is the KV cache on CPU, ``gpu_memory_utilization`` the share of GPU memory
    that weights and KV cache may take. ``enforce_eager`` None: eager on CPU, where compiling
    takes minutes. ``seed`` is for requests that have none. A request's own seed repeats its sample
    if its neighbours in the batch and its cached prefix round alike: in bfloat16 others can flip
    an id.
    """

    NAME = "vllm"
    # vLLM keeps what an engine works with once for a process: the context of a forward pass, what a reload of
    # weights has to do, groups; on CPU scratch memory too. Two at once mix up tokens or write over the heap.
    TURNS = Turns()
    living: ClassVar[int] = 0
    """Engines in this process, which share vLLM's process groups."""
    capabilities = frozenset(
        {
            Capability.TOKEN_IDS,
            Capability.LOGPROBS,
            Capability.WEIGHT_SYNC,
            Capability.SEED,
            Capability.STRUCTURED,
            Capability.ADAPTERS,
            Capability.LOCAL_WEIGHTS,
            # Not RANKS: its engine would take the ranks' process group for its own.
        }
    )
    requires: ClassVar[tuple[str, ...]] = ("vllm", "transformers")
    extra: ClassVar[str] = "cpu"

    def __init__(
        self,
        model: ModelSpec,
        *,
        kv_cache_gib: float = 2.0,
        gpu_memory_utilization: float = 0.4,
        max_num_seqs: int = 64,
        enforce_eager: bool | None = None,
        seed: int = 0,
        tensor_parallel_size: int = 1,
        deterministic: bool = False,
    ) -> None:
        super().__init__(model)
        if kv_cache_gib <= 0 or max_num_seqs < 1 or tensor_parallel_size < 1:
            raise ValueError("kv_cache_gib must be above 0, max_num_seqs and tensor_parallel_size at least 1")
        if not 0 < gpu_memory_utilization <= 1:
            raise ValueError("gpu_memory_utilization must be above 0 and at most 1")
        self.kv_cache_gib = kv_cache_gib
        self.gpu_memory_utilization = gpu_memory_utilization
        self.max_num_seqs = 1 if deterministic else max_num_seqs
        self.deterministic = deterministic
        self.enforce_eager = enforce_eager
        self.seed = seed
        self.tensor_parallel_size = tensor_parallel_size
        self._incomplete = ""

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        thread = self._ready()
        params = self._params(sampling, room_for_answer(prompt, self.model))
        with self._counted(), _refusals(sampling):
            output = await thread.generate({"prompt_token_ids": list(prompt)}, params)
        self._ready()  # it may have come after new weights that were not all there
        return _reply(output.outputs[0])

    async def stream_ids(
        self, prompt: Sequence[int], sampling: Sampling
    ) -> AsyncIterator[list[int] | TokenReply]:
        thread = self._ready()
        params = self._params(sampling, room_for_answer(prompt, self.model), stream=True)
        request = {"prompt_token_ids": list(prompt)}
        with self._counted(), _refusals(sampling):
            async with aclosing(thread.stream(request, params, _ids)) as items:
                async for item in items:
                    self._ready()  # as in generate
                    yield item if isinstance(item, list) else _reply(item.outputs[0])

    async def _complete_weights(self) -> None:
        """Replace weights that vLLM rounded to the nearest, which loses a float32 model's small updates."""
        import torch

        dtype = getattr(torch, self.model.dtype)
        if stored_wider(self._directory, dtype):
            await self.update_weights(stored_weights(self._directory, dtype), version=self.weight_version)

    def _ready(self) -> EngineThread:
        if self._incomplete:
            raise RunError(self._incomplete)
        return self._started()

    def _params(self, sampling: Sampling, room: int, *, stream: bool = False) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        tag = sampling.grammar
        return SamplingParams(
            max_tokens=min(sampling.max_tokens, room),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            stop=list(sampling.stop),
            stop_token_ids=list(sampling.stop_token_ids),
            seed=sampling.seed,
            logprobs=0,
            flat_logprobs=True,
            detokenize=bool(sampling.stop),
            structured_outputs=None if tag is None else StructuredOutputsParams(structural_tag=tag),
            output_kind=RequestOutputKind.CUMULATIVE if stream else RequestOutputKind.FINAL_ONLY,
        )

    def _make(self) -> Any:
        _quiet()
        try:
            import torch
            from transformers import AutoTokenizer
            from vllm import EngineArgs
            from vllm.platforms import current_platform

            on_cpu = current_platform.is_cpu()
            if on_cpu:
                skip_compiling()
            from vllm.v1.engine.llm_engine import LLMEngine
        except ImportError as problem:
            raise self._missing(problem) from problem
        device: dict[str, Any] = {"gpu_memory_utilization": self.gpu_memory_utilization}
        if on_cpu:
            kv_bytes = int(self.kv_cache_gib * _GIB)
            device = {
                "kv_cache_memory_bytes": kv_bytes,
                "block_size": _CPU_BLOCK,
                # For a seeded request whose prompt is split over two steps vLLM 0.31 rewinds its
                # generator, which CPU generators cannot do: the engine would die.
                "enable_chunked_prefill": False,
            }
        set_threads = torch.set_num_threads
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(self._directory)
            arguments = EngineArgs(
                model=str(self._directory),
                dtype=self.model.dtype,
                max_model_len=self.model.context,
                max_num_seqs=self.max_num_seqs,
                enforce_eager=on_cpu if self.enforce_eager is None else self.enforce_eager,
                enable_prefix_caching=not self.deterministic,  # what is cached hangs on what came before
                logprobs_mode="processed_logprobs",
                seed=self.seed,
                tensor_parallel_size=self.tensor_parallel_size,
                disable_log_stats=True,
                use_tqdm_on_load=False,
                **device,
            )
            with global_generators_kept():
                engine = LLMEngine.from_engine_args(arguments)
        except Exception as problem:
            raise self._unloadable(problem) from problem
        finally:
            torch.set_num_threads = set_threads  # vLLM replaces it by a function that does nothing
        VllmBackend.living += 1
        if on_cpu and self.tensor_parallel_size == 1:
            use_inverse_sampling(engine, self.seed)
        return engine

    def _replace_weights(self, engine: Any, weights: NamedWeights) -> None:
        """Replace all of them: a part of a fused layer cannot be replaced alone."""
        try:
            self._reload(engine, weights)
        except BaseException:
            self._incomplete = "the vLLM engine got only some of its weights; send all of them again"
            raise
        self._incomplete = ""

    def _reload(self, engine: Any, weights: NamedWeights) -> None:
        left = set(_checkpoint_names(self._directory))

        def seen() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in weights:
                left.discard(name)
                yield name, tensor

        source: Any = seen() if self.tensor_parallel_size == 1 else list(seen())
        engine.collective_rpc("reload_weights", kwargs={"weights_iterator": source})
        if not engine.reset_prefix_cache():
            raise RunError("update_weights: vLLM still holds cached prefixes of the old weights")
        if left:
            raise RunError(
                f"update_weights: {len(left)} weights were left out, e.g. {min(left)}; send the "
                "whole state dict, with adapters merged and under the base model's names"
            )

    def _dispose(self, engine: Any) -> None:
        from vllm.v1.engine import core

        VllmBackend.living -= 1
        clean_up = core.cleanup_dist_env_and_memory
        if VllmBackend.living:  # others go on to use the process groups, which a shutdown destroys
            core.cleanup_dist_env_and_memory = gc.collect
        try:
            engine.engine_core.shutdown()
            del engine
            core.cleanup_dist_env_and_memory()
        finally:
            core.cleanup_dist_env_and_memory = clean_up


def _quiet() -> None:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # On CPU vLLM would move the worker into a process of its own: 30 s to start, and no tensors
    # passed by reference.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])


def _ids(output: Any) -> Sequence[int]:
    ids: Sequence[int] = output.outputs[0].token_ids
    return ids


@contextmanager
def _refusals(sampling: Sampling) -> Iterator[None]:
    """Say it as others do that vLLM does not take a grammar."""
    try:
        yield
    except Exception as problem:
        refused = isinstance(problem, ValueError) or type(problem).__module__ == "vllm.exceptions"
        if sampling.grammar is None or not refused:
            raise
        raise CapabilityError(f"the grammar cannot be enforced: {problem}") from problem


def _reply(completion: Any) -> TokenReply:
    if completion.finish_reason == "error":
        raise CapabilityError("the grammar cannot be enforced: vLLM does not compile it, and logs why")
    ids = list(completion.token_ids)
    logprobs = list(completion.logprobs.logprobs)
    if len(ids) != len(logprobs):
        raise RuntimeError(f"vLLM returned {len(ids)} ids and {len(logprobs)} logprobs")
    cut = completion.finish_reason == "length"
    return TokenReply(ids, logprobs, FinishReason.LENGTH if cut else FinishReason.STOP)


def _checkpoint_names(directory: Path) -> Iterator[str]:
    """Names of the weights that the model's files hold."""
    from safetensors import safe_open

    for file in directory.glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            yield from weights.keys()
