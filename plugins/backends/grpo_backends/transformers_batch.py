"""Generate a batch of requests with a transformers model, in a sampling loop of our own over a KV cache."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from grpo_backends.sampling import draw, processed_logprobs
from grpo_backends.transformers_cache import KeyValues, Prefixes
from grpo_sdk import FinishReason, ModelError, Sampling
from grpo_sdk.backend import Tokenizer
from grpo_sdk.grammar import Followed, Grammars, leave_out

PASS = 16_384
"""Tokens that a forward pass over prompts takes, padding included: more of them only need more memory."""

PATIENCE = 0.5
"""Seconds that a request waits at most for others before it joins a batch that is under way."""


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
    """Generates waiting requests together; those that arrive meanwhile join them.

    ``window`` is how long, in seconds, the first request of a batch waits for others. Up to
    ``prefix_cache`` GiB hold what was computed of former requests, for those that begin alike.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        *,
        end_ids: set[int],
        max_batch: int,
        window: float,
        prefix_cache: float,
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
        self._states = KeyValues(model.device)
        self._prefixes = Prefixes(prefix_cache)

    def add_request(self, request_id: str, prompt: Sequence[int], params: Sampling) -> str:
        """Queue a request; ``params.seed`` must be set.

        Raises ``CapabilityError`` if its grammar cannot be enforced.
        """
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
        with torch.inference_mode():
            self._leave([row for row in self._rows if row.request_id in request_ids])

    def has_unfinished_requests(self) -> bool:
        """Whether ``step`` has something to do."""
        return bool(self._rows or self._waiting)

    def forget(self) -> None:
        """Hold nothing of former requests any more: the weights are others."""
        self._prefixes.clear()

    def step(self) -> list[Row]:
        """Sample one id for every request of the batch; return all rows, including those that ended."""
        with torch.inference_mode():
            if self._waiting and self._may_join():
                rows, logits = self._prefill()
            elif self._rows:
                rows, logits = self._rows, self._decode()
            else:
                time.sleep(0.001)
                return []
            self._sample(rows, logits)
            rows = list(rows)
            self._leave([row for row in rows if row.finished])
        return rows

    def _may_join(self) -> bool:
        """Whether those that wait join now. It costs a copy of the batch, so several join at once."""
        room = self._max_batch - len(self._rows)
        if room <= 0:
            return False
        waited, number = time.perf_counter() - self._since, len(self._waiting)
        if not self._rows:
            return number >= room or waited >= self._window
        return number >= min(room, len(self._rows) / 4) or waited >= PATIENCE

    def _prefill(self) -> tuple[list[Row], Tensor]:
        """Let waiting requests join; logits of their first ids."""
        room = self._max_batch - len(self._rows)
        new, self._waiting = self._waiting[:room], self._waiting[room:]
        self._since = time.perf_counter()
        # Samples of one prompt, such as a group's first turns, need it once.
        prompts = list(dict.fromkeys(tuple(row.prompt) for row in new))
        known = {prompt: self._prefixes.longest(prompt) for prompt in prompts}
        fresh = {prompt: len(prompt) - (held[1] if held else 0) for prompt, held in known.items()}
        parts: dict[tuple[int, ...], tuple[KeyValues, int]] = {}
        logits: dict[tuple[int, ...], Tensor] = {}
        for together in _passes(sorted(prompts, key=fresh.__getitem__), fresh):
            states = KeyValues.beginning(self.model.device, [known[prompt] for prompt in together])
            width = max(fresh[prompt] for prompt in together)
            ids = [[0] * (width - fresh[p]) + list(p[-fresh[p] :]) for p in together]
            mask = [[0] * (width - fresh[p]) + [1] * fresh[p] for p in together]
            found = self._forward(states, ids, torch.tensor(mask, device=self.model.device))
            for place, prompt in enumerate(together):
                parts[prompt], logits[prompt] = (states, place), found[place]
        mine = [(self._states, range(len(self._rows)))] if self._rows else []
        joining = [(states, [place]) for states, place in (parts[tuple(row.prompt)] for row in new)]
        self._states = KeyValues.gathered([*mine, *joining])
        self._rows += new
        return new, torch.stack([logits[tuple(row.prompt)] for row in new])

    def _decode(self) -> Tensor:
        mask = self._states.mask.new_ones((len(self._rows), 1))
        return self._forward(self._states, [row.ids[-1:] for row in self._rows], mask)

    def _forward(self, states: KeyValues, ids: list[list[int]], mask: Tensor) -> Tensor:
        positions = states.extend(mask)
        output = self.model(
            input_ids=torch.tensor(ids, device=self.model.device),
            attention_mask=states.mask,
            position_ids=positions,
            past_key_values=states.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _sample(self, rows: list[Row], logits: Tensor) -> None:
        samplings = [row.sampling for row in rows]
        logprobs = processed_logprobs(self._constrained(rows, logits.float()), samplings)
        drawn = draw(logprobs, samplings, [row.generator for row in rows])
        # Of what is no number (NaN) an id is drawn that there is not.
        chosen = logprobs.gather(1, drawn.clamp(max=logprobs.size(1) - 1).unsqueeze(1)).squeeze(1)
        if not bool(chosen.isfinite().all()):
            raise ModelError(
                "the model's probabilities are not numbers (NaN): its weights are not finite, or its values "
                "are too large for model.dtype. Try model.dtype: float32, or other weights"
            )
        for row, token, logprob in zip(rows, drawn.tolist(), chosen.tolist(), strict=True):
            row.ids.append(token)
            row.logprobs.append(logprob)
            taken = row.followed is None or row.followed.take(token)
            assert taken, f"the id {token} was sampled, which the request's grammar does not allow"
            row.finish_reason = self._finish_reason(row)

    def _constrained(self, rows: list[Row], logits: Tensor) -> Tensor:
        """``logits`` without what the grammars of the rows do not allow."""
        followed = {place: row.followed for place, row in enumerate(rows) if row.followed is not None}
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

    def _leave(self, leaving: list[Row]) -> None:
        for row in leaving:
            place = self._rows.index(row)
            if row.finished:
                # The last id was sampled, and has not been through the model.
                self._prefixes.add([*row.prompt, *row.ids[:-1]], partial(self._states.row, place))
            self._states.remove(place)
            self._rows[place] = self._rows[-1]
            self._rows = self._rows[:-1]
        if not self._rows:
            self._states = KeyValues(self.model.device)


def _passes(
    prompts: list[tuple[int, ...]], fresh: dict[tuple[int, ...], int]
) -> Iterator[list[tuple[int, ...]]]:
    """``prompts``, sorted by their new tokens, in passes that hold little padding."""
    together: list[tuple[int, ...]] = []
    for prompt in prompts:
        tokens = fresh[prompt]
        if together and (tokens > 2 * fresh[together[0]] + 32 or tokens * (len(together) + 1) > PASS):
            yield together
            together = []
        together.append(prompt)
    if together:
        yield together
