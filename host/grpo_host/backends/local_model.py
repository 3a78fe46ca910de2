"""A model by name, on a backend: loaded once, when it is first needed, and used from anywhere."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from grpo_host.agents.agent import Agent
from grpo_host.agents.rendering import Renderer, make_renderer
from grpo_host.backends.threaded import ThreadedBackend
from grpo_host.models.precision import resolve_dtype
from grpo_host.models.resolve import ResolvedModel, longest_context, resolve_model
from grpo_host.plugins import Registry, load_plugins
from grpo_host.utils.paths import expanded
from grpo_sdk.backend import Backend, Capability, ModelSpec
from grpo_sdk.blocking import call_blocking
from grpo_sdk.errors import CapabilityError, ModelError
from grpo_sdk.numbers import check_number

if TYPE_CHECKING:
    from grpo_host.plugins import Offer

AUTO = "auto"
CONTEXT = 2048
"""Tokens, where neither the user nor the model says less."""


@cache
def installed_plugins() -> Registry:
    """The installed plugins, loaded once a process."""
    return load_plugins()


class LocalModel:
    """The model called ``name`` (alias, hub id or directory) on ``backend``.

    ``backend`` is a registered name, a backend that is not started yet, or ``auto``: vLLM where there
    are a GPU and vLLM, else transformers. ``options`` are the backend's. ``context`` None: 2,048
    tokens, or as many as the model takes. ``stop`` and ``tool_format`` are those of ``ModelSpec``.
    Making one is light. It is loaded by the first ``start`` and can be used from several event loops,
    also one after another. Several of the same model and options load it once, until one is trained.
    """

    def __init__(
        self,
        name: str,
        *,
        backend: str | Backend = AUTO,
        options: Mapping[str, Any] | None = None,
        adapter: str | Path | None = None,
        dtype: str = AUTO,
        context: int | None = None,
        stop: Sequence[str | int] = (),
        tool_format: str = "auto",
        registry: Registry | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        if context is not None:
            check_number("the context", context, int)
        self.name = name
        self._backend = backend
        self._options = dict(options or {})
        self._adapter = expanded(adapter) if adapter is not None else None
        self._dtype = resolve_dtype(dtype)
        self._context = context
        self._stop = tuple(stop)
        self._tool_format = tool_format
        self._registry = registry
        self._progress = progress
        self._unnamed = uuid4().hex
        self._lock = threading.Lock()
        self._loading: Future[tuple[ThreadedBackend, Renderer | None]] | None = None

    async def start(self) -> tuple[Backend, Renderer | None]:
        """The started backend, and the renderer that it needs, if any.

        Raises ``ModelError``, ``PluginError``, ``ConfigError``, ``CapabilityError`` or
        ``MissingExtraError``; the next call tries again.
        """
        with self._lock:
            if self._loading is None:
                self._loading = _in_a_thread(self._load)
            loading = self._loading
        try:
            # Shielded: others may be waiting for the same load.
            return await asyncio.shield(asyncio.wrap_future(loading))
        except Exception:
            with self._lock:
                if self._loading is loading:
                    self._loading = None
            raise

    async def agent(self, **parts: Any) -> Agent:
        """An agent that speaks through this model; ``parts`` are the other fields of ``Agent``."""
        backend, renderer = await self.start()
        return Agent(backend, renderer, **parts)

    def identity(self) -> str:
        """Says which model and weights answer, the same in every process; a started model's."""
        backend, _ = self._loading.result() if self._loading is not None else (None, None)
        if backend is None:
            raise RuntimeError("the model is not started")
        inner, spec = backend.inner, backend.model
        own = "" if isinstance(self._backend, str) else self._unnamed  # what it does, only it knows
        return repr(
            (
                type(inner).__qualname__,
                sorted(self._options.items()),
                spec,
                _files(spec),
                own,
                backend.weights,
            )
        )

    async def close(self) -> None:
        """Release the model. The next ``start`` loads it again."""
        with self._lock:
            loading, self._loading = self._loading, None
        if loading is None or loading.cancel():
            return
        try:
            backend, _ = await asyncio.wrap_future(loading)
        except Exception:
            return  # whoever waited for the load was told
        await backend.close()

    def _load(self) -> tuple[ThreadedBackend, Renderer | None]:
        return asyncio.run(self._start(self._carried()))

    async def _start(self, backend: ThreadedBackend) -> tuple[ThreadedBackend, Renderer | None]:
        try:
            await backend.start()
            if Capability.TOKEN_IDS not in backend.capabilities:
                return backend, None
            return backend, await call_blocking(make_renderer, backend.tokenizer, backend.model)
        except BaseException:
            await backend.close()
            raise

    def _carried(self) -> ThreadedBackend:
        """The backend, which models of the same weights and options share."""
        if isinstance(self._backend, Backend):
            return ThreadedBackend(self._backend)
        from grpo_host.plugins.options import resolve_use
        from grpo_host.plugins.use import PluginUse

        name = _best_backend() if self._backend == AUTO else self._backend
        use = PluginUse(name=name, options=self._options)
        found = resolve_use("backend", use, self._registry or installed_plugins())
        offer, options = found.offer, found.arguments()
        if self._adapter is not None and Capability.ADAPTERS not in offer.capabilities:
            raise CapabilityError(f'the backend "{name}" loads no adapters; choose transformers or vllm')
        resolved = self._resolved(offer)
        path, hub_id = (resolved.path, resolved.hub_id) if resolved else (None, None)
        context = self._fitting_context(path)
        spec = ModelSpec(
            self.name, path, self._adapter, self._dtype, context, self._stop, hub_id, self._tool_format
        )

        def make() -> Backend:
            made: Backend = offer.make(spec, **options)
            return made

        chosen = self._backend == AUTO
        if resolved is None:  # no weights are loaded: there is nothing to share
            return ThreadedBackend(make(), chosen=chosen)
        key = (offer.factory, spec, tuple(_files(spec)), repr(sorted(options.items())))
        return ThreadedBackend.shared(key, make, chosen=chosen)

    def _resolved(self, offer: Offer) -> ResolvedModel | None:
        if Capability.LOCAL_WEIGHTS not in offer.capabilities:
            return None
        return resolve_model(self.name, progress=self._progress)

    def _fitting_context(self, path: Path | None) -> int:
        longest = longest_context(path) if path else None
        if self._context is None:
            return min(CONTEXT, longest or CONTEXT)
        if longest is not None and self._context > longest:
            raise ModelError(
                f'model "{self.name}" takes {longest} tokens at most, and {self._context} are asked for; '
                "lower the context"
            )
        return self._context


def _files(spec: ModelSpec) -> list[tuple[str, int, int]]:
    """What tells one state of the model's directories from another: each file's path, size and time (ns)."""
    folders = [folder for folder in (spec.path, spec.adapter) if folder and folder.is_dir()]
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.is_file()]
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _in_a_thread(work: Callable[[], Any]) -> Future[Any]:
    """``work`` in a daemon thread: importing an engine and reading weights block for long."""
    future: Future[Any] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except BaseException as problem:
            future.set_exception(problem)

    threading.Thread(target=run, name="grpo-model-loading", daemon=True).start()
    return future


def _best_backend() -> str:
    """vLLM if it has a GPU to run on: on CPU it takes longer to start than a chat lasts."""
    if importlib.util.find_spec("vllm") is None or importlib.util.find_spec("torch") is None:
        return "transformers"
    import torch

    return "vllm" if torch.cuda.is_available() else "transformers"
