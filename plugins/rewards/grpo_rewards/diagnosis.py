"""Reward working towards the cause of a technical problem. A word list."""

from __future__ import annotations

from grpo_rewards.wordlists import WordList, WordListReward


class DiagnosisReward(WordListReward):
    """Asking for the facts, naming a cause, steps in order and a check at the end, in [0, 1].

    English only. It knows the words of troubleshooting, not the trouble: "restart it, then check the
    logs" scores the same whether it helps or not.
    """

    name = "diagnosis"
    lists = (
        WordList(
            "facts",
            0.3,
            "error message*, error code*, which version, what version, operating system, when did,"
            " since when, what happens, what do you see, can you tell me, could you send, could you share,"
            " could you tell, screenshot*, log*, reproduce*, does it also, have you tried, did you change,"
            " which browser, which model",
        ),
        WordList(
            "cause",
            0.25,
            "because, cause*, usually means, this means, means that, likely, probably, due to, the reason,"
            " indicates, suggests, points to, happens when, conflict*, expired, misconfigured, out of memory,"
            " timeout*, permission*",
        ),
        WordList(
            "steps",
            0.3,
            "first, second, then, next, after that, finally, step*, open, click, select, run, restart*,"
            " reboot*, reinstall*, update*, clear, unplug*, set, change, delete, go to, navigate, type,"
            " enter, enable, disable, reset",
        ),
        WordList(
            "check",
            0.15,
            "let me know, tell me whether, tell me if, check whether, check if, see if, see whether,"
            " try again, verify, confirm*, if that does not, if that doesn't, if it still, if this still,"
            " should now, once more",
        ),
    )
    faults = WordList(
        "faults",
        0.0,
        "works for me, works on my machine, your fault, user error, you broke, no idea, not my problem,"
        " google it, read the manual, nothing i can do, can't help, cannot help, buy a new one, whatever",
    )
