"""Reward signs of empathy with the user. A word list."""

from __future__ import annotations

from grpo_rewards.wordlists import WordList, WordListReward


class EmpathyReward(WordListReward):
    """Apology, understanding, the user's feelings and thanks, by word lists, in [0, 1].

    English only. It cannot tell a felt sentence from a recited one: a policy that opens every
    reply with "I'm so sorry, I understand how frustrating this is" scores well whatever follows.
    """

    name = "empathy"
    lists = (
        WordList(
            "apology",
            0.3,
            "sorry, so sorry, very sorry, truly sorry, apolog*, my apologies, regret, forgive us",
        ),
        WordList(
            "understanding",
            0.3,
            "i understand, we understand, completely understand, understand how, understandable,"
            " understandably, i can see why, i see why, i hear you, i can imagine, i know how,"
            " makes sense, i realize, i realise, in your position, in your shoes",
        ),
        WordList(
            "feelings",
            0.25,
            "frustrat*, upset*, disappoint*, stress*, worr*, annoy*, inconvenien*, difficult,"
            " concern*, unpleasant, unacceptable, anxious, confusing, hard for you, trouble",
        ),
        WordList(
            "care",
            0.15,
            "thank you for, thanks for, appreciate*, here for you, here to help, your patience,"
            " happy to help, glad to help, take care of, make this right, make it right, we care",
        ),
    )
    faults = WordList(
        "faults",
        0.0,
        "calm down, your fault, your own fault, not my problem, not our problem, deal with it,"
        " stop complaining, whatever, get over it, too bad, who cares, don't care, do not care",
    )
