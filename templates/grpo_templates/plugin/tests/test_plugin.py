"""The host finds what the package offers. If it does not: `pip install -e .` again."""

from __future__ import annotations

from grpo_host.plugins import load_plugins

DISTRIBUTION = "acme-plugin"


def test_the_host_finds_all_that_the_plugin_offers() -> None:
    [plugin] = load_plugins([DISTRIBUTION]).plugins

    assert plugin.error is None
    offered = {f"{kind} {name}" for kind, names in plugin.offers.items() for name in names}
    assert offered == {
        # if reward
        "reward right_number",
        # end
        # if tool
        "tool add_numbers",
        # end
        # if environment
        "environment sums",
        # end
        # if strategy
        "strategy short_answers",
        # end
        # if backend
        "backend adder",
        # end
    }
