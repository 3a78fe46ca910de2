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

_CACHE_BYTES = 64 * 1024**2
"""For compiled grammars."""


class Grammars:
    """Grammars for one tokenizer and a model that scores ``vocabulary`` ids, compiled when first used.

    Not for several threads at once.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self.vocabulary = vocabulary
        self._compiler: Any = None

    def follow(self, grammar: str, stop_ids: Collection[int]) -> Followed:
        """Follow a new answer. ``stop_ids`` may stand wherever ``grammar`` has come to its end.

        Raises ``CapabilityError`` if ``grammar``, as ``Sampling.grammar``, cannot be compiled.
        """
        try:
            import xgrammar
        except ImportError as problem:
            raise MissingExtraError("constrained decoding", problem.name or "xgrammar", "train") from problem
        if self._compiler is None:
            known: Any = self._tokenizer
            info = xgrammar.TokenizerInfo.from_huggingface(known, vocab_size=self.vocabulary)
            self._compiler = xgrammar.GrammarCompiler(info, cache_limit_bytes=_CACHE_BYTES)
        try:
            compiled = self._compiler.compile_structural_tag(grammar)
        except (RuntimeError, ValueError) as problem:
            said = " ".join(str(problem).split())[-300:]
            raise CapabilityError(f"the grammar cannot be enforced: {said}") from problem
        return Followed(xgrammar.GrammarMatcher(compiled, override_stop_tokens=sorted(stop_ids)), self)

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

    def __init__(self, matcher: Any, grammars: Grammars) -> None:
        self._matcher = matcher
        self._grammars = grammars

    def fill(self, bits: torch.Tensor, row: int) -> None:
        """Set the bits of ``row`` to what may come next."""
        self._matcher.fill_next_token_bitmask(bits, row)

    def take(self, id: int) -> bool:
        """Go on behind ``id``; False, and nothing happens, if it is not allowed."""
        return bool(self._matcher.accept_token(id))


def unpacked(bits: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """``bits`` (rows, words) as truths (rows, vocabulary)."""
    import torch

    places = torch.arange(32, dtype=torch.int32, device=bits.device)
    return ((bits[:, :, None] >> places) & 1).bool().flatten(1)[:, :vocabulary]
