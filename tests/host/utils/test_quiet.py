"""What the command line keeps off the terminal, and what it lets through."""

import logging
import subprocess
import sys

import pytest

from grpo_host.utils.quiet import quiet_libraries

SET = ("TORCH_CPP_LOG_LEVEL", "HF_HUB_DISABLE_PROGRESS_BARS")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    for name in SET:
        monkeypatch.delenv(name, raising=False)
    quiet_libraries()
    yield
    for name in SET:
        monkeypatch.delenv(name, raising=False)


def test_the_note_on_the_engines_process_group_is_dropped(caplog):
    logging.getLogger("transformers.training_args").warning(
        "torch.distributed process group is initialized, but"
    )
    assert not caplog.records


def test_other_notes_of_the_same_library_come_through(caplog):
    logging.getLogger("transformers.training_args").warning("your disk is on fire")
    assert [record.getMessage() for record in caplog.records] == ["your disk is on fire"]


@pytest.mark.model
def test_reading_a_models_weights_shows_no_bar():
    code = (
        "from grpo_host.utils.quiet import quiet_libraries; quiet_libraries(); "
        "from transformers.utils.logging import is_progress_bar_enabled; "
        "raise SystemExit(is_progress_bar_enabled())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_it_loads_nothing_heavy():
    code = (
        "import sys; from grpo_host.utils.quiet import quiet_libraries; quiet_libraries(); "
        "sys.exit(bool({'torch', 'transformers', 'vllm'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
