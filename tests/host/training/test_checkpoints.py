from __future__ import annotations

import errno
import os

import pytest

from grpo_sdk.errors import RunError

pytestmark = pytest.mark.model


@pytest.fixture
def checkpoints(heavy):
    from grpo_host.training import checkpoints

    return checkpoints


def checkpoint(root, step, *, complete, value=1.0):
    import torch
    from safetensors.torch import save_file

    path = root / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file(
        {"lora_A": torch.ones(2), "lora_B": torch.tensor([1.0, value])}, path / "adapter_model.safetensors"
    )
    if complete:
        (path / "grpo_state.json").write_text("{}")
    return path


def test_the_newest_complete_checkpoint_counts_not_the_longest_name(checkpoints, tmp_path):
    for step in (2, 10, 9):
        checkpoint(tmp_path, step, complete=True)
    checkpoint(tmp_path, 11, complete=False)
    (tmp_path / "warm-start").mkdir()
    assert checkpoints.latest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert checkpoints.latest_checkpoint(tmp_path / "none") is None


def test_the_checkpoints_of_the_last_two_steps_are_kept_whatever_the_clock_says(checkpoints, tmp_path):
    for step in (2, 9, 10):
        os.utime(checkpoint(tmp_path, step, complete=True), (2e9 - step, 2e9 - step))
    checkpoint(tmp_path, 11, complete=False)
    checkpoints.complete_checkpoint(tmp_path, 11, {})
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-10", "checkpoint-11"}
    assert checkpoints.latest_checkpoint(tmp_path) == tmp_path / "checkpoint-11"


def test_no_checkpoint_is_removed_before_the_new_one_is_complete(checkpoints, tmp_path, monkeypatch):
    for step in (1, 2):
        checkpoint(tmp_path, step, complete=True)
    checkpoint(tmp_path, 3, complete=False)

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=r"Input/output error; .*checkpoint-2\. Mend that and run again"):
        checkpoints.complete_checkpoint(tmp_path, 3, {})
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-1", "checkpoint-2"}


def test_only_half_checkpoints_are_removed(checkpoints, tmp_path):
    whole, half = checkpoint(tmp_path, 1, complete=True), checkpoint(tmp_path, 2, complete=False)
    (tmp_path / "warm-start").mkdir()
    checkpoints.remove_incomplete(tmp_path)
    checkpoints.remove_incomplete(tmp_path / "none")
    assert whole.is_dir()
    assert (tmp_path / "warm-start").is_dir()
    assert not half.exists()


@pytest.mark.parametrize(
    ("complete", "says"),
    [(True, r"the last complete checkpoint is .*checkpoint-1\."), (False, "there was no checkpoint before")],
)
def test_a_full_disk_names_the_checkpoint_that_is_left(checkpoints, tmp_path, complete, says):
    checkpoint(tmp_path, 1, complete=complete)
    checkpoint(tmp_path, 2, complete=False)
    error = checkpoints.checkpoint_error(OSError(28, "No space left on device"), tmp_path)
    with pytest.raises(
        type(error), match=f"cannot save a checkpoint in .*: .*No space left on device; {says}.*--resume"
    ):
        raise error
    assert not (tmp_path / "checkpoint-2").exists()


def test_a_state_is_written_whole_or_not_at_all(checkpoints, tmp_path):
    with pytest.raises(TypeError):
        checkpoints.mark_complete(checkpoint(tmp_path, 1, complete=False), {"x": object()})
    assert checkpoints.latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_that_is_not_finite_is_not_the_latest(checkpoints, tmp_path, value):
    finite = checkpoint(tmp_path, 1, complete=True)
    checkpoint(tmp_path, 2, complete=True, value=value)
    assert checkpoints.latest_checkpoint(tmp_path) == finite


def test_weights_that_are_not_finite_are_not_called_a_checkpoint(checkpoints, tmp_path):
    broken = checkpoint(tmp_path, 2, complete=False, value=float("nan"))
    with pytest.raises(RunError, match=r"checkpoint-2 are not finite \(in lora_B of adapter_model.*--resume"):
        checkpoints.mark_complete(broken, {})
    assert not broken.exists()


@pytest.fixture
def two(checkpoints, tmp_path):
    """The directory of two complete checkpoints."""
    for step in (1, 2):
        path = checkpoint(tmp_path, step, complete=False)
        for name in ("optimizer.pt", "trainer_state.json", "inner/rng_state.pth"):
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_bytes(b"x" * 3000)
        checkpoints.complete_checkpoint(tmp_path, step, {"policy_version": step})
    return tmp_path


DAMAGES = [
    ("optimizer.pt", b"x" * 1000, "its optimizer.pt has 1,000 of 3,000 bytes"),
    ("optimizer.pt", b"\0" * 3000, "its optimizer.pt is not what was written"),
    ("trainer_state.json", None, "its trainer_state.json is missing"),
    ("inner/rng_state.pth", b"", "its inner/rng_state.pth has 0 of 3,000 bytes"),
    ("adapter_model.safetensors", b"half", "its adapter_model.safetensors has 4 of"),
    ("grpo_state.json", b"", "its grpo_state.json cannot be read (Expecting value"),
    ("grpo_state.json", b"\0" * 90, "its grpo_state.json cannot be read ("),
    ("grpo_state.json", b"[]", "its grpo_state.json cannot be read ("),
]


def spoil(path, content):
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize(("name", "content", "what"), DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_older_one_taken(checkpoints, two, name, content, what):
    spoil(two / "checkpoint-2" / name, content)
    said = []
    assert checkpoints.whole_checkpoint(two, said.append) == two / "checkpoint-1"
    (line,) = said
    assert line.startswith(f"warning: {two}/checkpoint-2 is damaged: {what}")
    assert line.endswith(f"It is kept as damaged-checkpoint-2; the run goes on from {two}/checkpoint-1")
    assert {path.name for path in two.iterdir()} == {"checkpoint-1", "damaged-checkpoint-2"}


def test_where_all_checkpoints_are_damaged_nothing_of_the_run_is_touched(checkpoints, two):
    for step in (1, 2):
        spoil(two / f"checkpoint-{step}" / "optimizer.pt", b"cut")
    with pytest.raises(
        RunError,
        match=r"checkpoint-2 is damaged: its optimizer.pt has 3 of 3,000 bytes, and there is no older "
        r"checkpoint to go on from\. Put the file back from a copy, or begin a new run without --resume",
    ):
        checkpoints.whole_checkpoint(two, print)
    assert {path.name for path in two.iterdir()} == {"checkpoint-1", "checkpoint-2"}


def test_whole_checkpoints_are_taken_without_a_word(checkpoints, two):
    said = []
    assert checkpoints.whole_checkpoint(two, said.append) == two / "checkpoint-2"
    assert checkpoints.whole_checkpoint(two / "none", said.append) is None
    assert said == []


def test_a_copy_that_somebody_made_of_a_checkpoint_is_left_alone(checkpoints, two):
    (two / "checkpoint-2").rename(two / "checkpoint-2-copy")
    assert checkpoints.whole_checkpoint(two, print) == two / "checkpoint-1"
    assert (two / "checkpoint-2-copy").is_dir()


def test_a_checkpoint_of_a_version_that_noted_no_files_is_taken(checkpoints, tmp_path):
    path = checkpoint(tmp_path, 1, complete=True)
    assert checkpoints.whole_checkpoint(tmp_path, print) == path
