"""What an app says, told as it comes."""

from __future__ import annotations

import pytest

from grpo_host.langchain.telling import Telling


def say(telling, *texts):
    with telling.listen(None) as told:
        for text in texts:
            told(text)


def test_calls_are_told_as_they_come_and_the_answer_once():
    heard = []
    telling = Telling(heard.append)
    say(telling, "Let me ", "see.")
    say(telling)  # a call of a tool
    say(telling, "Done.")
    assert telling.end("Done.") == "Done."
    assert "".join(heard) == "Let me see.\n\nDone."


def test_an_answer_that_no_call_said_last_is_told_at_the_end():
    heard = []
    telling = Telling(heard.append)
    say(telling, "Let me see.")
    assert telling.end("All is well.") == "All is well."
    assert "".join(heard) == "Let me see.\n\nAll is well."


@pytest.mark.parametrize("said", ['{"day": 3}', '{"day":3}'])
def test_a_structured_answer_is_told_as_the_model_wrote_it(said):
    heard = []
    telling = Telling(heard.append)
    say(telling, said)
    assert telling.end('{"day":3}') == said
    assert heard == [said]


def test_of_calls_side_by_side_the_one_that_began_first_is_told_and_each_hears_its_own():
    heard, first, second = [], [], []
    telling = Telling(heard.append)
    with telling.listen(first.append) as one, telling.listen(second.append) as other:
        one("One ")
        other("Other")
        one("text.")
    assert (heard, first, second) == (["One ", "text."], ["One ", "text."], ["Other"])
