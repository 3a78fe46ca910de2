"""Reward promises and steps towards a solution. A word list."""

from __future__ import annotations

from grpo_rewards.wordlists import WordList, WordListReward


class ActionOrientationReward(WordListReward):
    """Commitment, concrete steps, a time frame and asking for what is needed, by word lists, in [0, 1].

    English only. It reads promises, not deeds: a policy scores well by announcing a refund that
    it cannot make. If actions can be checked (tools, an outcome), check those instead.
    """

    name = "action_orientation"
    lists = (
        WordList(
            "commitment",
            0.35,
            "i will, i'll, we will, we'll, let me, i can, we can, i'm going to, i am going to,"
            " i have, i've, i'm checking, i am checking, allow me, i'd be happy to,"
            " i would be happy to",
        ),
        WordList(
            "step",
            0.3,
            "refund*, replac*, check*, look into, looking into, look up, send, resend, reset*,"
            " cancel*, ship*, escalat*, investigat*, process*, arrange*, update*, contact*, track*,"
            " fix*, resolve*, unlock*, credit*, correct*, verify*, connect you, open a ticket",
        ),
        WordList(
            "time",
            0.15,
            "right away, right now, immediately, today, tomorrow, as soon as possible, shortly,"
            " within, business days, hours, minutes, straight away, at once, first, next step*",
        ),
        WordList(
            "request",
            0.2,
            "could you, can you, please provide, please share, please send, please confirm,"
            " please tell me, may i have, what is your, what's your, order number, account number,"
            " email address, let me know, which one, would you like",
        ),
    )
    faults = WordList(
        "faults",
        0.0,
        "i can't, i cannot, we can't, we cannot, unable to, nothing i can do, nothing we can do,"
        " not my job, not possible, i don't know, i do not know, i won't, i will not,"
        " you should contact, as an ai",
    )
