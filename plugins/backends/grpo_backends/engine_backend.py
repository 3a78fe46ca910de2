"""What backends with an engine in this process share: its thread, its adapter, and new weights for it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from grpo_backends.adapters import merged_weights
from grpo_backends.engine_thread import EngineThread
from grpo_backends.turns import Turns
from grpo_sdk import Backend, MissingExtraError, ModelError, ModelSpec
from grpo_sdk.adapters import check_adapter
from grpo_sdk.blocking import call_blocking
from grpo_sdk.errors import BusyError

if TYPE_CHECKING:
    from grpo_sdk.backend import NamedWeights, Tokenizer


class EngineBackend(Backend):
    """A backend whose engine runs in a thread of its own; a subclass makes it and gives it weights."""

    NAME: ClassVar[str]
    """Of the backend in agent.yaml."""
    TURNS: ClassVar[Turns | None] = None
    """For engines of which only one in a process may work at a time."""

    def __init__(self, model: ModelSpec) -> None:
        super().__init__(model)
        self.weight_version = 0
        """The ``version`` of the last ``update_weights``."""
        self._thread: EngineThread | None = None
        self._tokenizer: Tokenizer | None = None
        self._under_way = 0

    @abstractmethod
    def _make(self) -> Any:
        """Make the engine, and set ``_tokenizer``. Called in the engine's thread."""

    @abstractmethod
    def _replace_weights(self, engine: Any, weights: NamedWeights) -> None:
        """Replace weights of the engine. Called in its thread, with no request under way."""

    def _dispose(self, engine: Any) -> None:
        """Free what the engine holds. Called in its thread."""

    async def _complete_weights(self) -> None:
        """Called when the engine has loaded a model without an adapter."""

    async def start(self) -> None:
        if self.model.adapter is not None:
            await call_blocking(check_adapter, self.model.adapter, self.model)
        thread = EngineThread(self._make, self._dispose, self.TURNS)
        try:
            await thread.start()
            self._thread = thread
            if self.model.adapter is not None:
                await self._merge(self.model.adapter)
            else:
                await self._complete_weights()
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
            raise RuntimeError(f"the backend {self.NAME} has no tokenizer before start()")
        return self._tokenizer

    async def update_weights(self, weights: NamedWeights, *, version: int) -> None:
        """Replace weights and forget cached prefixes; requests that come meanwhile wait.

        Raises ``BusyError`` if requests are under way, and ``RunError`` for weights that do not fit.
        """
        thread = self._started()
        if self._under_way:
            raise BusyError(
                f"update_weights: {self._under_way} requests are under way, whose tokens would come "
                "from two policies; await or cancel them first"
            )

        def replace(engine: Any) -> None:
            self._replace_weights(engine, weights)
            self.weight_version = version

        await thread.call(replace)

    async def load_adapter(self, path: Path) -> None:
        """Merge the adapter into the model's weights and serve them from now on.

        On CPU, requests with an unmerged adapter run six times slower in vLLM. Raises ``ModelError`` if the
        adapter cannot be read or does not fit.
        """
        await call_blocking(check_adapter, path, self.model)
        await self._merge(path)

    async def _merge(self, adapter: Path) -> None:
        weights = merged_weights(self._directory, adapter, self.model.dtype)
        await self.update_weights(weights, version=self.weight_version)

    @property
    def _directory(self) -> Path:
        if self.model.path is None:
            raise ModelError(f'the backend {self.NAME} needs the directory of model "{self.model.name}"')
        return self.model.path

    def _started(self) -> EngineThread:
        if self._thread is None:
            raise RuntimeError(f"the backend {self.NAME} is not running; await start() first")
        return self._thread

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a request as under way."""
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    def _missing(self, problem: ImportError) -> MissingExtraError:
        return MissingExtraError(f"the backend {self.NAME}", problem.name or self.NAME, self.extra)

    def _unloadable(self, problem: Exception) -> ModelError:
        said = " ".join(str(problem).split())[:600]
        return ModelError(
            f'the backend {self.NAME} cannot load "{self.model.name}" from {self._directory}: {said}'
        )
