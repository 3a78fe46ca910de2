from __future__ import annotations

import pytest

from grpo_rewards.format import FormatReward
from grpo_rewards.length import LengthReward
from grpo_sdk.testing import make_trajectory


def form(text: str, **options: object) -> float:
    return FormatReward(**options).score(make_trajectory(text)).value


def length(count: int, **options: int) -> float:
    return LengthReward(**options).score(make_trajectory(" ".join(["word"] * count))).value


def test_a_plain_well_ended_reply_passes_every_check():
    assert form("I will check it. It costs $3.50 today.") == 1.0


def test_each_failed_check_costs_its_share():
    assert form("no full stop") == pytest.approx(2 / 3)
    assert form("**Bold** move.") < 1.0
    assert form("One. Two. Three. Four. Five. Six. Seven. Eight.") == pytest.approx((0.5 + 1 + 1) / 3)


@pytest.mark.parametrize(
    "mark", ["# Title\nText.", "- item\n- item.", "`" * 3 + "x.", "<b>x</b>.", "<|im_end|>."]
)
def test_markup_is_found(mark):
    assert form(mark, max_sentences=0, proper_ending=False) < 1.0
    assert form(mark, max_sentences=0, allow_markup=True) == 1.0


def test_a_pattern_has_to_match():
    options = {"pattern": r"order [A-Z]\d+", "max_sentences": 0, "allow_markup": True, "proper_ending": False}
    assert form("It is order A12.", **options) == 1.0
    assert form("It is your order.", **options) == 0.0


def test_text_without_a_letter_has_no_form():
    assert form("...") == 0.0
    assert form(" ") == 0.0


def test_a_bad_pattern_is_refused_by_name():
    with pytest.raises(ValueError, match=r"format: pattern '\(' is no regular expression"):
        FormatReward(pattern="(")


def test_a_format_without_any_check_is_refused():
    with pytest.raises(ValueError, match="every check is off"):
        FormatReward(max_sentences=0, allow_markup=True, proper_ending=False)


def test_length_rises_to_the_band_and_falls_after_it():
    values = [length(count) for count in (1, 5, 10, 15, 40, 60, 80, 100, 119)]
    assert values[3:6] == [1.0, 1.0, 1.0]
    assert values[:4] == sorted(values[:4])
    assert values[5:] == sorted(values[5:], reverse=True)
    assert length(200) == 0.0
    assert 0.0 < values[0] < 0.1


def test_a_band_of_one_length_works():
    assert length(10, low=10, high=10, longest=20) == 1.0


def test_an_impossible_band_is_refused():
    with pytest.raises(ValueError, match="0 <= shortest < low <= high < longest"):
        LengthReward(low=60, high=20)
