"""Backends: where tokens come from. A backend says what it can do; the host refuses the rest at start-up."""

from __future__ import annotations

from abc import ABC
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from grpo_sdk.errors import CapabilityError
from grpo_sdk.messages import Message, ToolSchema
from grpo_sdk.numbers import check_number

if TYPE_CHECKING:
    import torch

    NamedWeights: TypeAlias = Iterable[tuple[str, torch.Tensor]]


class Capability(StrEnum):
    """What a backend can do."""

    CHAT = "chat"
    """Messages in, message out."""
    TOOLS = "tools"
    """Tool schemas in, parsed tool calls out (with CHAT)."""
    STREAMING = "streaming"
    """Text deltas as they are sampled (with CHAT)."""
    TOKEN_IDS = "token_ids"
    """Token ids in, the exact sampled ids out."""
    LOGPROBS = "logprobs"
    """The log-probability of every sampled id, at the temperature it was sampled at."""
    WEIGHT_SYNC = "weight_sync"
    """Takes new weights between generations."""
    ADAPTER_SYNC = "adapter_sync"
    """With WEIGHT_SYNC: takes them as LoRA adapters alone, by ``update_adapter``. Its engine runs in other
    processes, which all ranks share by ``connection`` and ``connect``."""
    ADAPTERS = "adapters"
    """Loads a LoRA adapter directory."""
    SEED = "seed"
    """Repeats a sample for the same seed."""
    STRUCTURED = "structured"
    """Samples nothing but what ``Sampling.grammar`` (with TOKEN_IDS), or ``tool_choice`` and ``json_schema``
    (with CHAT) allow. LOGPROBS are then those of the distribution that is left."""
    PARTS = "parts"
    """Sends images and files of messages to its model (with CHAT); for others a message with ``parts`` is an
    error."""
    LOCAL_WEIGHTS = "local_weights"
    """Loads the model from a local directory: the host resolves ``ModelSpec.path`` for it."""
    RANKS = "ranks"
    """Works in a process that is one of several ranks of a torch process group."""


class FinishReason(StrEnum):
    """Why a model's answer ended."""

    STOP = "stop"
    """It sampled a token, or wrote a text, that ends an answer."""
    LENGTH = "length"
    """``max_tokens`` cut it."""
    TOOL_CALLS = "tool_calls"
    """It calls tools."""


TRAINABLE = frozenset({Capability.TOKEN_IDS, Capability.LOGPROBS, Capability.WEIGHT_SYNC})
"""What training asks of a backend."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The model that a backend is to serve."""

    name: str
    """As the user wrote it: an alias, a hub id, a path, or a provider's name."""
    path: Path | None = None
    """Local directory with weights and tokenizer; None if the backend fetches or calls the model."""
    adapter: Path | None = None
    """A PEFT adapter directory to serve on top."""
    dtype: str = "bfloat16"
    """Of the weights, as torch names it: ``bfloat16``, ``float32`` or ``float16``."""
    context: int = 2048
    """Longest sequence in tokens, prompt and completion together."""
    stop: tuple[str | int, ...] = ()
    """Tokens (texts or ids) that end a turn, in place of those that the chat template writes."""
    hub_id: str | None = None
    """The model's name on the hub, wherever its directory is; None if it has none or it is unknown."""
    tool_format: str = "auto"
    """How the model writes tool calls; ``auto``: as its chat template does."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample. ``temperature`` 0 is greedy."""

    max_tokens: int = 128
    """Longest answer, in tokens."""
    temperature: float = 1.0
    """0 or more."""
    top_p: float = 1.0
    """Above 0, at most 1: sample from the most probable tokens that together have this probability."""
    top_k: int = 0
    """Sample from this many of the most probable tokens; 0: from all."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer."""
    stop_token_ids: tuple[int, ...] = ()
    """Ids that end the answer; the one that did is its last."""
    seed: int | None = None
    """Repeats the sample, if the backend has SEED."""
    tool_choice: str = "auto"
    """``auto``: the model chooses. ``none``: it calls no tool. ``required``: it calls at least one. Any other
    text is the name of the tool that it calls. The last two need STRUCTURED."""
    json_schema: dict[str, Any] | None = field(default=None, hash=False)
    """The answer's text is JSON of this schema; an empty one stands for any JSON object. Needs STRUCTURED."""
    parallel_tool_calls: bool = True
    """False: an answer calls at most one tool."""
    grammar: str | None = None
    """For ``generate``: what may be sampled before the id that ends the answer, as a structural tag (JSON, as
    xgrammar reads it). The host makes it from the three above, which are for ``chat``."""

    @property
    def constrained(self) -> bool:
        """Whether only a backend that has STRUCTURED can do it."""
        forced = self.tool_choice not in ("auto", "none")
        return forced or self.json_schema is not None or self.grammar is not None

    def __post_init__(self) -> None:
        check_number("max_tokens", self.max_tokens, int)
        check_number("temperature", self.temperature, float)
        check_number("top_p", self.top_p, float)
        check_number("top_k", self.top_k, int)
        if self.seed is not None:
            check_number("seed", self.seed, int)


@dataclass(frozen=True, slots=True)
class TokenReply:
    """What a token backend sampled."""

    ids: list[int]
    """The sampled ids, the stop token included if one was sampled."""
    logprobs: list[float]
    """One for each of ``ids``: natural logarithms."""
    finish_reason: FinishReason
    """``STOP`` or ``LENGTH``; its text may be given. Any other is a ``ValueError``."""
    policy_version: int | None = None
    """Which weights sampled it, as ``update_weights`` or ``update_adapter`` named them. None: those of the
    session's beginning, since there were no others."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "finish_reason", FinishReason(self.finish_reason))


@dataclass(frozen=True, slots=True)
class ChatReply:
    """What a chat backend answered."""

    message: Message
    """The assistant's message, its tool calls included."""
    finish_reason: FinishReason = FinishReason.STOP
    """Its text may be given. Any other is a ``ValueError``."""
    prompt_tokens: int = 0
    """Tokens of the conversation that was answered; 0 if the backend does not count them."""
    completion_tokens: int = 0
    """Tokens of the answer; 0 if the backend does not count them."""
    cost: float | None = None
    """US dollars, if the backend knows."""

    def __post_init__(self) -> None:
        if not isinstance(self.message, Mapping):
            raise TypeError(
                f"the message of a ChatReply is a message, such as grpo_sdk.assistant(text), not "
                f"{type(self.message).__name__}"
            )
        object.__setattr__(self, "finish_reason", FinishReason(self.finish_reason))


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that rendering needs."""

    eos_token_id: int | None
    chat_template: Any

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...
    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str: ...
    def apply_chat_template(self, conversation: Any, **kwargs: Any) -> Any: ...


class Backend(ABC):
    """Base class of backends; a method that ``capabilities`` does not announce raises ``CapabilityError``.

    A backend is made by ``Class(model, **options)``, which must be light: weights load in
    ``start``. All methods are safe to call from one event loop with many calls under way.
    """

    capabilities: frozenset[Capability]
    """What it can do: of the class, or of an instance if it depends on the options."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Importable modules without which ``start`` fails; checked before a run."""
    extra: ClassVar[str] = ""
    """The extra of grpo-agent-framework (or a package) that installs them."""
    directory: Path | None = None
    """Where it may keep what belongs to the run: logs, adapters. A run sets its own directory before
    ``start``; None: a temporary one."""

    max_staleness: int = 0
    """How many versions behind the newest an answer under way may be: ``update_adapter`` waits for older
    ones. A run sets it before ``start``."""

    def __init__(self, model: ModelSpec) -> None:
        self.model = model

    async def start(self) -> None:
        """Load. Called once, before anything else."""

    async def close(self) -> None:
        """Release everything. Safe to call twice and before ``start``."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer (with TOKEN_IDS), after ``start``."""
        raise self._cannot(Capability.TOKEN_IDS)

    async def generate(self, prompt: Sequence[int], sampling: Sampling) -> TokenReply:
        """Sample a continuation of the token ids ``prompt``.

        Raises ``ContextOverflowError`` if the prompt leaves no space for one id.
        """
        raise self._cannot(Capability.TOKEN_IDS)

    async def stream_ids(
        self, prompt: Sequence[int], sampling: Sampling
    ) -> AsyncIterator[list[int] | TokenReply]:
        """As ``generate``: the ids as they are sampled, then the whole reply as the last item.

        The default, for backends that cannot stream, gives all ids at once.
        """
        reply = await self.generate(prompt, sampling)
        yield reply.ids
        yield reply

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> ChatReply:
        """Answer a conversation, by a text or by calls of ``tools``.

        Raises ``ContextOverflowError`` if the conversation leaves no room for an answer, ``ProviderError``
        if a model's server cannot be reached or refuses.
        """
        raise self._cannot(Capability.CHAT)

    def stream(
        self, messages: Sequence[Message], sampling: Sampling, tools: Sequence[ToolSchema] = ()
    ) -> AsyncIterator[str | ChatReply]:
        """As ``chat``: text deltas, whose sum is the reply's content, then the whole reply."""
        raise self._cannot(Capability.STREAMING)

    async def update_weights(self, weights: NamedWeights, *, version: int) -> None:
        """Replace weights by name (the base model's names, adapters merged). No request may be under way.

        Each tensor has the shape of the one that it replaces. ``version`` counts the updates.
        """
        raise self._cannot(Capability.WEIGHT_SYNC)

    async def update_adapter(self, path: Path | None, *, version: int) -> None:
        """Sample from the base model with the LoRA adapter at ``path`` from now on.

        Requests under way end with the adapter that they began with; which one it was, ``TokenReply`` says.
        ``path`` None: another rank has given it to the engine that both use. ``path`` may be removed
        afterwards.
        """
        raise self._cannot(Capability.ADAPTER_SYNC)

    def connection(self) -> Mapping[str, Any]:
        """After ``start``: what the backend of another rank gets by ``connect`` to use the same engine."""
        raise self._cannot(Capability.ADAPTER_SYNC)

    def connect(self, connection: Mapping[str, Any]) -> None:
        """Before ``start``: use the engine of the backend whose ``connection`` this is, and start none."""
        raise self._cannot(Capability.ADAPTER_SYNC)

    async def load_adapter(self, path: Path) -> None:
        """Serve the PEFT adapter in the directory ``path`` from now on.

        Raises ``ModelError`` if it is none of this model.
        """
        raise self._cannot(Capability.ADAPTERS)

    def _cannot(self, capability: Capability) -> CapabilityError:
        return CapabilityError(
            f"the backend {type(self).__name__} has no {capability.value}; "
            f"it can: {', '.join(sorted(c.value for c in self.capabilities))}"
        )
