"""Which ids a grammar allows next: one implementation for backends that sample and trainers that score.

Both must leave the same ids out, or the log-probs of sampler and trainer are those of two distributions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from grpo_sdk.errors import CapabilityError, MissingExtraError, RunError

if TYPE_CHECKING:
    import torch

    from grpo_sdk.backend import Tokenizer

_KEPT = 64
"""Compiled grammars."""


class Grammars:
    """Grammars for one tokenizer and a model that scores ``vocabulary`` ids, compiled when first used.

    Not for several threads at once.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self.vocabulary = vocabulary
        self._compiler: Any = None
        self._compiled: dict[str, Any] = {}

    def follow(self, grammar: str, stop_ids: Collection[int]) -> Followed:
        """Follow a new answer. ``stop_ids`` may stand wherever ``grammar`` has come to its end.

        Raises ``CapabilityError`` if ``grammar``, as ``Sampling.grammar``, cannot be compiled.
        """
        try:
            import xgrammar
        except ImportError as problem:
            raise MissingExtraError("constrained decoding", problem.name or "xgrammar", "train") from problem
        if grammar not in self._compiled:
            self._compile(grammar, xgrammar)
        matcher = xgrammar.GrammarMatcher(self._compiled[grammar], override_stop_tokens=sorted(stop_ids))
        return Followed(matcher)

    def _compile(self, grammar: str, xgrammar: Any) -> None:
        if self._compiler is None:
            known: Any = self._tokenizer
            info = xgrammar.TokenizerInfo.from_huggingface(known, vocab_size=self.vocabulary)
            # Its own cache takes grammars that differ in the ids of special tokens alone for the same one.
            self._compiler = xgrammar.GrammarCompiler(info, cache_enabled=False)
        try:
            compiled = self._compiler.compile_structural_tag(grammar)
        except (RuntimeError, ValueError) as problem:
            said = " ".join(str(problem).split())[-300:]
            raise CapabilityError(f"the grammar cannot be enforced: {said}") from problem
        if len(self._compiled) >= _KEPT:
            del self._compiled[next(iter(self._compiled))]
        self._compiled[grammar] = compiled

    def allowed(self, ids: Sequence[int], grammar: str, stop_ids: Collection[int]) -> torch.Tensor:
        """What could have been sampled in place of each of ``ids``: bits, as ``unpacked`` reads them.

        Raises ``RunError`` if ``grammar`` does not allow ``ids``.
        """
        followed = self.follow(grammar, stop_ids)
        bits = self.bits(len(ids))
        for row, id in enumerate(ids):
            followed.fill(bits, row)
            if not followed.take(id):
                raise RunError(
                    f"the grammar of a constrained answer does not allow its id {row} ({id}): it was sampled "
                    "with another grammar, tokenizer or version of xgrammar"
                )
        return bits

    def bits(self, rows: int) -> torch.Tensor:
        """Bits for ``rows`` ids, which all allow everything."""
        import torch

        return torch.full((rows, -(-self.vocabulary // 32)), -1, dtype=torch.int32)


class Followed:
    """An answer that grows by the ids that its grammar allows."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def fill(self, bits: torch.Tensor, row: int) -> None:
        """Set the bits of ``row`` to what may come next."""
        self._matcher.fill_next_token_bitmask(bits, row)

    def take(self, id: int) -> bool:
        """Go on behind ``id``; False, and nothing happens, if it is not allowed."""
        return bool(self._matcher.accept_token(id))


def unpacked(bits: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """``bits`` (rows, words), of this machine's memory, as truths (rows, vocabulary)."""
    import numpy as np
    import torch

    # torch would wait for all its threads several times an id.
    each = np.unpackbits(bits.numpy().view(np.uint8), axis=1, count=vocabulary, bitorder="little")
    return torch.from_numpy(each).view(torch.bool)


def leave_out(logits: torch.Tensor, bits: torch.Tensor, rows: list[int]) -> torch.Tensor:
    """``logits`` (float32), in which what ``bits`` forbid in ``rows`` becomes minus infinity."""
    import xgrammar

    xgrammar.apply_token_bitmask_inplace(logits, bits.to(logits.device), indices=rows)
    return logits
