"""Reading a judge's answer: tolerant of its form, never of its content."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_rewards.ruler.prompt import CORRECTION, build_prompt
from grpo_rewards.ruler.verdict import UnusableAnswerError, read_verdicts
from grpo_sdk.testing import make_trajectory

GOOD = '{"scores": [{"id": "1", "explanation": "kind", "score": 0.9}, {"id": "2", "score": 0.1}]}'


@pytest.mark.parametrize(
    "answer",
    [
        GOOD,
        f"```json\n{GOOD}\n```",
        f"Here is what I think of [1] and {{2}}:\n\n{GOOD}\n\nI hope that helps!",
        f"<think>At first {{1: 0.2}}, or {GOOD.replace('0.9', '0.5')}</think>{GOOD}",
        f'{GOOD.replace("0.9", "0.2")} Finally:\n{{"id": "1", "score": 0.9}}\n{{"id": "2", "score": 0.1}}',
        f"{GOOD.replace('0.9', '0.2')} No, on second thoughts: {GOOD}",
        GOOD.replace("}]}", "},],}"),
        GOOD.replace('"1"', "1").replace('"2"', "2"),
        GOOD.replace('"1"', '"trajectory 1"').replace('"2"', '"Trajectory #2"'),
        GOOD.replace("0.9", '"0.9"'),
        GOOD.replace('"scores"', '"results"'),
        '[{"id": 1, "score": 0.9, "explanation": "kind"}, {"id": 2, "score": 0.1}]',
        '{"1": 0.9, "2": 0.1}',
        '{"scores": {"1": {"score": 0.9, "explanation": "kind"}, "2": {"score": 0.1}}}',
        '{"id": "1", "score": 0.9}\n{"id": "2", "score": 0.1}',
        GOOD[:-2],
        "{'scores': [{'id': '1', 'score': 0.9}, {'id': '2', 'score': 0.1}]}",
        '{"scores": [{"id": "2", "score": 1e-1}, {"id": "1", "score": 0.90}]}',
    ],
)
def test_scores_are_found_in_many_forms(answer):
    verdicts = read_verdicts(answer, ["1", "2"])
    assert {key: verdict.score for key, verdict in verdicts.items()} == {"1": 0.9, "2": 0.1}


def test_explanations_are_kept():
    assert read_verdicts(GOOD, ["1", "2"])["1"].explanation == "kind"


def test_zero_and_one_are_scores():
    assert {v.score for v in read_verdicts('{"1": 0, "2": 1}', ["1", "2"]).values()} == {0.0, 1.0}


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("", "there is no JSON object with a list of scores"),
        ("The first one is best.", "there is no JSON object"),
        ("[0.9, 0.1]", "there is no JSON object"),
        ('{"best": "1"}', "there is no JSON object"),
        (GOOD[:-12], 'trajectory "2" has no score'),
        ('{"scores": [{"id": "1", "score": 0.9}]}', 'trajectory "2" has no score'),
        ('{"1": 0.9, "2": 0.1, "3": 0.5}', 'no trajectory with the id "3"'),
        ('{"scores": [{"score": 0.9}, {"score": 0.1}]}', 'no trajectory with the id "None"'),
        (
            '[{"id": 1, "score": 0.9}, {"id": 1, "score": 0.9}, {"id": 2, "score": 0.1}]',
            'trajectory "1" has two scores',
        ),
        ('{"1": 9, "2": 1}', 'the score of trajectory "1" is not from 0 to 1'),
        ('{"1": -0.1, "2": 1}', 'the score of trajectory "1" is not from 0 to 1'),
        ('{"1": NaN, "2": 1}', 'the score of trajectory "1" is no number'),
        ('{"1": Infinity, "2": 1}', 'the score of trajectory "1" is no number'),
        ('{"1": null, "2": 1}', 'the score of trajectory "1" is no number'),
        ('{"1": true, "2": 1}', 'the score of trajectory "1" is no number'),
        ('{"1": "good", "2": 1}', 'the score of trajectory "1" is no number'),
        ('{"1": [0.5], "2": 1}', 'the score of trajectory "1" is no number'),
    ],
)
def test_what_is_no_complete_set_of_scores_is_refused(answer, said):
    with pytest.raises(UnusableAnswerError) as error:
        read_verdicts(answer, ["1", "2"])
    assert said in str(error.value)


@given(st.text(alphabet="{}[]\"':,.0123456789idscore truNa\\-", max_size=120))
def test_any_text_is_scores_or_an_error(answer):
    try:
        verdicts = read_verdicts(answer, ["1", "2"])
    except UnusableAnswerError:
        return
    assert set(verdicts) == {"1", "2"}
    assert all(0.0 <= verdict.score <= 1.0 for verdict in verdicts.values())


def test_a_very_long_answer_is_read_quickly():
    with pytest.raises(UnusableAnswerError):
        read_verdicts("[" * 100_000 + "{" * 100_000, ["1"])


def test_a_thought_without_an_end_is_no_verdict():
    with pytest.raises(UnusableAnswerError):
        read_verdicts(f"<think>Perhaps {GOOD}", ["1", "2"])


@pytest.mark.parametrize("group", [1, 2])
def test_the_form_in_the_prompt_is_no_verdict(group):
    """A small judge may say back what it was asked for."""
    [instructions, _] = build_prompt([make_trajectory("Hello")] * group, "kind", max_chars=1000)
    correction = CORRECTION.format(problem="none", ids="1")
    for echo in (instructions["content"], correction):
        with pytest.raises(UnusableAnswerError):
            read_verdicts(echo, [str(number + 1) for number in range(group)])


@pytest.mark.parametrize("final", [GOOD.replace("0.1", "9"), GOOD[: GOOD.index(', {"id": "2"')]])
def test_a_draft_does_not_stand_in_for_a_last_word_that_is_no_good(final):
    with pytest.raises(UnusableAnswerError):
        read_verdicts(f"Draft: {GOOD} On reflection: {final}", ["1", "2"])


def test_an_explanation_can_be_kept_whatever_the_judge_wrote():
    [verdict] = read_verdicts('{"1": {"score": 1, "explanation": "nice \\ud83d"}}', ["1"]).values()
    assert verdict.explanation == "nice ?"
