"""Which line of whose code failed."""

from __future__ import annotations

import asyncio
import json
import sysconfig
import threading

import pytest

from grpo_host.plugins.failures import PluginFailure, blamed, plugin_frame, plugin_line
from grpo_sdk.messages import as_messages


def raised(function):
    try:
        function()
    except BaseException as problem:
        return problem


def test_the_line_is_the_plugins_own_not_a_librarys():
    problem = raised(lambda: json.loads("{"))
    assert plugin_line(problem).startswith("plugins/test_failures.py:")


def test_what_only_ours_and_libraries_raise_has_no_line_of_a_plugin():
    def ours():
        as_messages([3])

    problem = raised(ours)
    problem.__traceback__ = problem.__traceback__.tb_next.tb_next  # from as_messages on
    assert plugin_line(problem) == ""


def test_of_installed_code_the_package_that_was_called_is_named():
    problem = raised(lambda: json.loads("{"))
    problem.__traceback__ = problem.__traceback__.tb_next.tb_next  # from json.loads on
    assert plugin_line(problem).startswith("json/decoder.py:")


def test_a_failure_names_who_and_which_method():
    with (
        pytest.raises(
            PluginFailure, match=r'environment "shop": reset\(\): KeyError: \'n\' \(plugins/test_fail'
        ),
        blamed('environment "shop"', "reset"),
    ):
        {}["n"]


def test_a_keyboard_interrupt_outside_of_the_main_thread_is_the_plugins():
    found = []

    def work():
        try:
            with blamed("x", "y"):
                raise KeyboardInterrupt
        except PluginFailure as problem:
            found.append(str(problem))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[0].startswith("x: y(): KeyboardInterrupt (plugins/test_failures.py:")


def test_event_loops_and_what_has_no_file_are_nobodys_line():
    stdlib = f"{sysconfig.get_path('stdlib')}/asyncio/base_events.py"
    assert plugin_frame([(stdlib, 1), ("<frozen importlib._bootstrap>", 2), ("<string>", 3)]) == ""
    assert plugin_frame([(stdlib, 1), ("/home/me/shop.py", 4)]) == "me/shop.py:4"


@pytest.mark.parametrize("interrupt", [asyncio.CancelledError, KeyboardInterrupt, GeneratorExit])
def test_interrupts_are_nobodys_failure(interrupt):
    with pytest.raises(interrupt), blamed("x", "y"):
        raise interrupt
