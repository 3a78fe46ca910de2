"""What the trainer knows of a token and the ledger does not, of a few episodes a step, for tokens.jsonl."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from grpo_sdk.trajectory import Trajectory

DIGITS = 5


class TokenRecorder:
    """Writes a line for each trained sequence of the first ``episodes`` of a step."""

    def __init__(self, episodes: int, write: Callable[[dict[str, Any]], object]) -> None:
        self._episodes, self._write = episodes, write

    def __call__(
        self,
        step: int,
        played: Sequence[Trajectory],
        episode_of: Sequence[int],
        weights: Sequence[float],
        inputs: dict[str, Any],
        logprobs: Tensor,
        entropies: Tensor | None,
    ) -> None:
        """Take the rows of ``inputs`` as the loss is computed from them; ``row`` is each one's number."""
        for place, row in enumerate(inputs["row"].tolist()):
            episode = episode_of[row]
            if episode >= self._episodes or not weights[row]:
                continue
            sequences = played[episode].ledger.sequences
            trained = [number for number, item in enumerate(sequences) if item.sampled and item.weight]
            number = trained[list(episode_of[:row]).count(episode)]
            start = sequences[number].prompt_length
            mask = sequences[number].mask[start : start + logprobs.size(1)]
            ratio = inputs.get("importance_sampling_ratio")
            self._write(
                {
                    "id": played[episode].id,
                    "step": step,
                    "sequence": number,
                    "start": start,
                    "advantage": round(inputs["advantages"][place].reshape(-1)[0].item(), DIGITS),
                    "logprob": _values(logprobs[place], mask),
                    "entropy": None if entropies is None else _values(entropies[place], mask),
                    "ratio": None if ratio is None else _values(ratio[place].expand(logprobs.size(1)), mask),
                }
            )


def _values(row: Tensor, mask: Sequence[int]) -> list[float | None]:
    """Of the sampled tokens; None of the others."""
    found = row.detach().float().tolist()
    return [round(value, DIGITS) if sampled else None for value, sampled in zip(found, mask, strict=False)]
