"""Generate a batch of requests with a transformers model, in a sampling loop of our own over a KV cache."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from grpo_backends.sampling import draw, processed_logprobs
from grpo_sdk import FinishReason, Sampling
from grpo_sdk.backend import Tokenizer
from grpo_sdk.grammar import Followed, Grammars, leave_out

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class Row:
    """One request, and its output once ``finish_reason`` is set."""

    request_id: str
    prompt: list[int]
    sampling: Sampling
    generator: torch.Generator
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    followed: Followed | None = None
    """What its grammar allows, if it has one."""

    @property
    def finished(self) -> bool:
        """Whether it has its last id."""
        return self.finish_reason is not None


class BatchEngine:
    """Generates waiting requests together; those that arrive meanwhile make the next batch.

    ``window`` is how long, in seconds, the first request of a batch waits for others.
    """

    def __init__(
        self, model: Any, tokenizer: Tokenizer, *, end_ids: set[int], max_batch: int, window: float
    ) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self._end_ids = end_ids
        self._grammars = Grammars(tokenizer, model.config.get_text_config().vocab_size)
        self._max_batch = max_batch
        self._window = window
        self._waiting: list[Row] = []
        self._rows: list[Row] = []
        self._since = 0.0
        self._cache: Any = None
        self._mask: torch.Tensor | None = None
        self._last: torch.Tensor | None = None

    def add_request(self, request_id: str, prompt: Sequence[int], params: Sampling) -> str:
        """Queue a request; ``params.seed`` must be set.

        Raises ``CapabilityError`` if its grammar cannot be enforced.
        """
        import torch

        if params.seed is None:
            raise ValueError("the request has no seed")
        followed = None
        if params.grammar is not None:
            followed = self._grammars.follow(params.grammar, self._end_ids | set(params.stop_token_ids))
        generator = torch.Generator().manual_seed(params.seed)
        if not self._waiting:
            self._since = time.perf_counter()
        self._waiting.append(Row(request_id, list(prompt), params, generator, followed=followed))
        return request_id

    def abort_request(self, request_ids: list[str], internal: bool = False) -> None:
        """Forget requests, queued or under way."""
        self._waiting = [row for row in self._waiting if row.request_id not in request_ids]
        self._keep([row.request_id not in request_ids for row in self._rows])

    def has_unfinished_requests(self) -> bool:
        """Whether ``step`` has something to do."""
        return bool(self._rows or self._waiting)

    def step(self) -> list[Row]:
        """Sample one id for every request of the batch; return all rows, including those that ended."""
        import torch

        with torch.inference_mode():
            if self._rows:
                logits = self._decode()
            elif self._waiting and self._window_is_over():
                logits = self._prefill()
            else:
                time.sleep(0.001)
                return []
            self._sample(logits)
        rows = self._rows
        if any(row.finished for row in rows):
            self._keep([not row.finished for row in rows])
        return rows

    def _window_is_over(self) -> bool:
        full = len(self._waiting) >= self._max_batch
        return full or time.perf_counter() - self._since >= self._window

    def _prefill(self) -> torch.Tensor:
        import torch
        from transformers import DynamicCache

        self._rows = self._waiting[: self._max_batch]
        del self._waiting[: self._max_batch]
        longest = max(len(row.prompt) for row in self._rows)
        pads = [longest - len(row.prompt) for row in self._rows]
        ids = [[0] * pad + row.prompt for pad, row in zip(pads, self._rows, strict=True)]
        mask = [[0] * pad + [1] * (longest - pad) for pad in pads]
        self._mask = torch.tensor(mask, device=self.model.device)
        self._cache = DynamicCache()
        positions = (self._mask.cumsum(dim=-1) - 1).clamp(min=0)
        return self._forward(torch.tensor(ids, device=self.model.device), positions)

    def _decode(self) -> torch.Tensor:
        import torch

        assert self._mask is not None
        assert self._last is not None
        self._mask = torch.cat([self._mask, self._mask.new_ones((len(self._rows), 1))], dim=1)
        positions = self._mask.sum(dim=-1, keepdim=True) - 1
        return self._forward(self._last.unsqueeze(1), positions)

    def _forward(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: torch.Tensor = output.logits[:, -1]
        return logits

    def _sample(self, logits: torch.Tensor) -> None:
        samplings = [row.sampling for row in self._rows]
        logprobs = processed_logprobs(self._constrained(logits.float()), samplings)
        self._last = draw(logprobs, samplings, [row.generator for row in self._rows])
        chosen = logprobs.gather(1, self._last.unsqueeze(1)).squeeze(1).tolist()
        for row, token, logprob in zip(self._rows, self._last.tolist(), chosen, strict=True):
            row.ids.append(token)
            row.logprobs.append(logprob)
            taken = row.followed is None or row.followed.take(token)
            assert taken, f"the id {token} was sampled, which the request's grammar does not allow"
            row.finish_reason = self._finish_reason(row)

    def _constrained(self, logits: torch.Tensor) -> torch.Tensor:
        """``logits`` without what the grammars of the batch's rows do not allow."""
        followed = {place: row.followed for place, row in enumerate(self._rows) if row.followed is not None}
        if not followed:
            return logits
        bits = self._grammars.bits(len(logits))
        for place, answer in followed.items():
            answer.fill(bits, place)
        return leave_out(logits.contiguous(), bits, list(followed))

    def _finish_reason(self, row: Row) -> FinishReason | None:
        last, sampling = row.ids[-1], row.sampling
        if last in self._end_ids or last in sampling.stop_token_ids:
            return FinishReason.STOP
        if sampling.stop:
            text = self._tokenizer.decode(row.ids)
            if any(stop in text for stop in sampling.stop):
                return FinishReason.STOP
        return FinishReason.LENGTH if len(row.ids) >= sampling.max_tokens else None

    def _keep(self, kept: list[bool]) -> None:
        if all(kept):
            return
        import torch

        self._rows = [row for row, keep in zip(self._rows, kept, strict=True) if keep]
        if not self._rows:
            self._cache = self._mask = self._last = None
            return
        assert self._mask is not None
        assert self._last is not None
        where = torch.tensor(kept, device=self._mask.device).nonzero().squeeze(1)
        self._mask, self._last = self._mask[where], self._last[where]
        self._cache.batch_select_indices(where)
