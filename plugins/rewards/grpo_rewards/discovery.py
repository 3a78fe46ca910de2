"""Reward selling by finding out what the customer needs. A word list."""

from __future__ import annotations

from grpo_rewards.wordlists import WordList, WordListReward


class DiscoveryReward(WordListReward):
    """Questions about the need, benefits for the customer, openness and a next step, in [0, 1].

    English only. It cannot tell a true benefit from an invented one: a policy scores well by promising
    what the product does not do. Pressure ("only today") is a fault.
    """

    name = "discovery"
    lists = (
        WordList(
            "need",
            0.35,
            "what are you looking for, looking for, what do you, what would you, how many, how often,"
            " how large, how big, which of, what matters, important to you, what is your, what's your,"
            " what kind, do you need, do you use, do you already, are you using, your needs, your team,"
            " your goal*, your budget, tell me more, tell me about",
        ),
        WordList(
            "benefit",
            0.3,
            "saves you, save time, save you, so that you, so you can, which means, helps you, help you,"
            " lets you, allows you, includes, included, benefit*, fits, suits, ideal for, good for,"
            " a good match, without extra, at no extra",
        ),
        WordList(
            "openness",
            0.15,
            "honestly, to be fair, the downside, does not, doesn't, less expensive, cheaper, no obligation,"
            " no commitment, take your time, compare*, free trial, cancel at any time, depends on, the price,"
            " costs, if you only, may not need",
        ),
        WordList(
            "next",
            0.2,
            "would you like, shall i, shall we, i can send, i'll send, i will send, send you, quote, demo*,"
            " trial, schedule*, book a, set up a call, next step*, let me know, try it, show you",
        ),
    )
    faults = WordList(
        "faults",
        0.0,
        "act now, only today, last chance, buy now, before it's too late, before it is too late,"
        " you'd be stupid, you would be stupid, you'd be crazy, guaranteed, no risk, can't lose, cannot lose,"
        " everyone buys, everybody buys, don't think, sign now, limited time, trust me",
    )
