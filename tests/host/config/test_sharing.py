"""What is read out of an accelerate configuration, and what of it cannot be had."""

from __future__ import annotations

import pytest

from grpo_host.config.sharing import asked_by, refusals
from grpo_sdk import ConfigError

FSDP = "distributed_type: FSDP\nfsdp_config: {fsdp_version: 2, %s}\n"


@pytest.fixture
def asked(tmp_path):
    def read(text: str) -> dict[str, str]:
        path = tmp_path / "fsdp.yaml"
        path.write_text(text)
        return asked_by(path)

    return read


def test_settings_are_called_as_accelerate_launch_would(asked):
    assert asked(FSDP % "fsdp_offload_params: true, fsdp_backward_prefetch: null") == {
        "FSDP_VERSION": "2",
        "FSDP_OFFLOAD_PARAMS": "True",
    }


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "fsdp.yaml cannot be used: while parsing"),
        ("distributed_type: FSDP\nfsdp_config: [2]\n", "its fsdp_config is no mapping"),
        ("", "fsdp.yaml asks for no FSDP, but for nothing. Say distributed_type: FSDP"),
        ("distributed_type: DEEPSPEED\n", "fsdp.yaml asks for no FSDP, but for DEEPSPEED"),
    ],
)
def test_a_file_that_shards_nothing_says_what_to_write(asked, text, what):
    with pytest.raises(ConfigError, match=what):
        asked(text)


def test_a_file_that_is_not_there_can_be_made(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no file .*none.yaml. Make one with accelerate config"):
        asked_by(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("setting", "why"),
    [
        ("fsdp_version: 1", "FSDP 1, which torch has replaced. Say fsdp_version: 2"),
        ("fsdp_activation_checkpointing: true", "say training.gradient_checkpointing: true"),
        ("fsdp_auto_wrap_policy: SIZE_BASED_WRAP", "Say fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_next_step(asked, setting, why):
    version = "" if "version" in setting else "fsdp_version: 2, "
    (found,) = refusals(asked(f"distributed_type: FSDP\nfsdp_config: {{{version}{setting}}}\n"))
    assert why in found


def test_without_a_version_it_is_the_older_one_as_for_accelerate(asked):
    (found,) = refusals(asked("distributed_type: FSDP\n"))
    assert "asks for FSDP 1" in found


def test_what_changes_nothing_is_taken(asked):
    assert not list(refusals(asked(FSDP % "fsdp_activation_checkpointing: false")))
    assert not list(refusals(asked(FSDP % "fsdp_auto_wrap_policy: NO_WRAP")))
