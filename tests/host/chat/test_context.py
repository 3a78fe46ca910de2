from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_host.agents.rendering.template import TemplateRenderer
from grpo_host.chat.context import counter, exchanges, fit, older, steps
from grpo_sdk import ContextOverflowError, assistant, system, tool_call, tool_result, user

TEXT = st.text(alphabet="ab \n", max_size=12)


@st.composite
def used_tools(draw):
    """An assistant's calls with all of their results."""
    found = [tool_call("look_up", draw(TEXT), f"call_{i}") for i in range(draw(st.integers(1, 3)))]
    return [assistant(draw(TEXT), found), *(tool_result(call, draw(TEXT)) for call in found)]


ROUNDS = st.lists(used_tools(), max_size=3).map(lambda rounds: [m for part in rounds for m in part])


@st.composite
def conversations(draw):
    """Any conversation in which the model is to speak next."""
    messages = [system(draw(TEXT))] if draw(st.booleans()) else []
    if draw(st.booleans()):
        messages.append(assistant(draw(TEXT)))
    for _ in range(draw(st.integers(0, 4))):
        messages.append(user(draw(TEXT)))
        messages += draw(ROUNDS)
        if draw(st.booleans()):
            messages.append(assistant(draw(TEXT)))
    return [*messages, user(draw(TEXT)), *draw(ROUNDS)]


def check_whole(before, after):
    """``after`` is ``before`` without some of it: no message changed, no tool exchange halved."""
    left = iter(before)
    assert all(any(message is other for other in left) for message in after)
    assert [m for m in after if m["role"] == "system"] == [m for m in before if m["role"] == "system"]
    last = [m for m in before if m["role"] == "user"][-1]
    assert any(message is last for message in after)
    kept = {id(message) for message in after}
    for part in steps(before):
        assert len({id(message) in kept for message in part}) == 1


@settings(max_examples=500)
@given(conversations(), st.integers(0, 300))
@pytest.mark.slow
def test_nothing_that_matters_is_lost_and_the_budget_is_kept_where_that_can_be(messages, budget):
    count = counter(None, [])
    last = max(i for i, m in enumerate(messages) if m["role"] == "user")
    least = count([m for m in messages[:1] if m["role"] == "system"] + [messages[last]])
    if least > budget:
        with pytest.raises(
            ContextOverflowError, match=r"last message take \d+ tokens, and \d+ of the context"
        ):
            fit(messages, budget, count)
        return
    shown = fit(messages, budget, count)
    assert count(shown) <= budget
    check_whole(messages, shown)
    if count(messages) <= budget:
        assert shown == messages


@pytest.mark.model
@settings(max_examples=60)
@given(conversations(), st.integers(20, 300))
def test_so_it_is_with_a_real_template(smollm_tokenizer, messages, budget):
    renderer = TemplateRenderer(smollm_tokenizer)
    count = counter(renderer, [])
    try:
        shown = fit(messages, budget, count)
    except ContextOverflowError:
        return
    assert len(renderer.prompt(shown, [])) <= budget
    check_whole(messages, shown)


@given(conversations(), st.integers(1, 5), st.integers(0, 300))
def test_whole_exchanges_are_put_away_and_never_the_last(messages, turns, budget):
    messages = [m for m in messages if m["role"] != "system"]
    count = counter(None, [])
    away = older(messages, lambda rest: count(rest) <= budget, turns)
    rest = messages[away:]
    assert rest[0]["role"] == "user" or away == 0
    assert any(m["role"] == "user" for m in rest)
    assert len(exchanges(rest)) <= turns
    assert count(rest) <= budget or len(exchanges(rest)) == 1


def test_older_exchanges_go_before_newer_steps_and_the_oldest_first():
    call = tool_call("look_up", "{}", "c")
    step = [assistant("", [call]), tool_result(call, "x" * 30)]
    messages = [system("s"), user("1"), assistant("a"), user("2"), assistant("b"), user("3"), *step, *step]
    count = counter(None, [])
    least = count([system("s"), user("3")])
    kept = [fit(messages, budget, count) for budget in range(count(messages), least - 1, -1)]
    assert {len(shown): shown for shown in kept} == {
        10: messages,
        8: [messages[0], *messages[3:]],
        6: [messages[0], *messages[5:]],
        4: [messages[0], messages[5], *messages[8:]],
        2: [system("s"), user("3")],
    }


@pytest.mark.model
@pytest.mark.parametrize(
    "text",
    [
        "The quick brown fox jumps over the lazy dog, and then it goes home to sleep.",
        "Order A-1234 of March 3rd costs 49.90 dollars and has not arrived.",
        "def f(x):\n    return [y ** 2 for y in range(x)]",
    ],
)
def test_an_estimate_is_rather_too_high(smollm_tokenizer, text):
    exact = len(smollm_tokenizer.encode(text, add_special_tokens=False))
    assert exact <= counter(None, [])([user(text)]) <= 3 * exact
