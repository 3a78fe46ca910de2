"""A strategy is what the agent is told."""

from __future__ import annotations

from acme_plugin.strategy import short_answers


def test_the_agent_is_told_how_many_words_it_has() -> None:
    assert short_answers(words=3).instructions.endswith("Answer in at most 3 words.")
