"""Stop texts in a stream, however it is cut into pieces."""

from hypothesis import example, given
from hypothesis import strategies as st

from grpo_host.agents.stop_sequences import StopSequences

letters = st.text("ab", max_size=12)


@example(pieces=["ab", "b"], stops=["b", "abb"])
@given(
    pieces=st.lists(letters, max_size=6), stops=st.lists(st.text("ab", min_size=1, max_size=3), max_size=3)
)
def test_what_is_told_is_the_text_up_to_the_first_stop(pieces, stops):
    told = []
    until = StopSequences(stops, told.append)
    for piece in pieces:
        until(piece)
    whole = "".join(pieces)
    found = [whole.find(stop) for stop in stops if stop in whole]
    expected = whole[: min(found)] if found else whole
    assert until.end(whole) == expected
    assert "".join(told) == expected


def test_text_that_cannot_begin_a_stop_is_told_at_once():
    told = []
    until = StopSequences(["END"], told.append)
    until("hello EN")
    assert told == ["hello "]
    until("TER")
    assert "".join(told) == "hello ENTER"
