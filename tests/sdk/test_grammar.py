from __future__ import annotations

import sys

import pytest

from grpo_sdk.errors import MissingExtraError
from grpo_sdk.grammar import Grammars, unpacked


def test_a_missing_xgrammar_is_named_with_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "xgrammar", None)
    with pytest.raises(
        MissingExtraError, match=r"constrained decoding needs .*grpo-agent-framework\[train\]"
    ):
        Grammars(None, 64).follow("{}", [1])


def test_bits_are_read_from_the_lowest_of_the_first_word():
    torch = pytest.importorskip("torch")
    bits = torch.tensor([[0b101, -(2**31)], [-1, 0]], dtype=torch.int32)
    assert unpacked(bits, 64)[0].nonzero()[:, 0].tolist() == [0, 2, 63]
    assert unpacked(bits, 40)[1].nonzero()[:, 0].tolist() == list(range(32))
    assert bool(unpacked(Grammars(None, 33).bits(1), 33).all())
