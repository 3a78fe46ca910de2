"""Reward teaching rather than telling the answer. A word list."""

from __future__ import annotations

from grpo_rewards.wordlists import WordList, WordListReward


class GuidanceReward(WordListReward):
    """Questions to the learner, encouragement, reasons and small steps, in [0, 1].

    English only. It does not know the subject: an encouraging explanation that is wrong scores well.
    Giving the answer away, and belittling, are faults.
    """

    name = "guidance"
    lists = (
        WordList(
            "question",
            0.35,
            "what do you think, what would, what happens, what is, what's, what could, which, why do you,"
            " why might, how could, how would, how did you, can you, could you, do you see, do you remember,"
            " have you, where would",
        ),
        WordList(
            "encouragement",
            0.2,
            "good, great, well done, nice, excellent, exactly, right, almost, on the right track, close,"
            " good try, good start, you can do, keep going, no worries, don't worry, that's okay,"
            " part of learning",
        ),
        WordList(
            "reason",
            0.25,
            "because, since, so that, that's why, that is why, this is why, the reason, means that, means,"
            " therefore, for example, for instance, imagine, think of, like a, in other words, remember that,"
            " notice",
        ),
        WordList(
            "steps",
            0.2,
            "first, next, then, step*, start with, start by, let's, let us, try, look at, one at a time,"
            " break it, before we, once you, hint*, together, on both sides",
        ),
    )
    faults = WordList(
        "faults",
        0.0,
        "the answer is, just memorize, just memorise, just copy, copy this, obviously, that's easy,"
        " that is easy, everyone knows, everybody knows, you should know, stupid, dumb, wrong again,"
        " i already told you, as i said, pay attention, too difficult for you, too hard for you, give up",
    )
