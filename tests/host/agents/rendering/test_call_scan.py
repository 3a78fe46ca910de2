from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_host.agents.rendering.call_scan import scan
from grpo_host.agents.rendering.reading import PlainReader
from grpo_host.agents.rendering.tool_calls import TEXT

OPENING, CLOSING = "<tool_call>", "</tool_call>"
CALL = '<tool_call>{"name": "save", "arguments": {"text": "</tool_call> <tool_call>"}}</tool_call>'
PIECES = st.lists(
    st.sampled_from([CALL, OPENING, CLOSING, '{"a": ', '"', "}", "\\", "{}", "7", " ", "Hello", "\n"]),
    max_size=12,
)


def streamed(parts):
    """What is shown of a text that comes in ``parts``, and what is held back in the end."""
    shown, rest = "", ""
    for part in parts:
        found = scan(rest + part, TEXT, whole=False)
        shown, rest = shown + found.shown, found.rest
    return shown, rest


@given(PIECES, st.integers(1, 7))
def test_a_text_that_comes_in_parts_is_shown_as_the_whole_is(pieces, size):
    text = "".join(pieces)
    shown, rest = streamed([text[at : at + size] for at in range(0, len(text), size)])
    left = scan(rest, TEXT, whole=True)
    assert shown + left.shown == scan(text, TEXT, whole=True).shown


@given(PIECES)
def test_all_of_a_text_is_shown_or_said_by_a_call(pieces):
    text = "".join(pieces)
    found = scan(text, TEXT, whole=True)
    assert found.rest == ""
    kept = (
        (found.shown + "".join(call.said for call in found.calls)).replace(OPENING, "").replace(CLOSING, "")
    )
    assert sorted(kept.replace(" ", "")) == sorted(
        text.replace(OPENING, "").replace(CLOSING, "").replace(" ", "")
    )


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_reader_shows_no_tail_of_a_call_that_quotes_its_tag(fakes, size):
    tokenizer = fakes.PieceTokenizer()
    ids = tokenizer.encode(f"One moment. {CALL} Done.")
    reader = PlainReader(tokenizer, (1,), tools=True)
    shown = [reader.feed(ids[at : at + size]) for at in range(0, len(ids), size)]
    assert "".join(shown) == "One moment.  Done."
