"""What a server is told by its environment."""

from __future__ import annotations

import pytest

from grpo_host.serving.settings import ServerSettings
from grpo_sdk.errors import ConfigError


def test_a_state_directory_that_cannot_be_made_is_named_with_its_cause_and_variable(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    state = tmp_path / "file" / "state"
    monkeypatch.setenv("GRPO_STATE_DIR", str(state))
    with pytest.raises(ConfigError) as refused:
        ServerSettings.of().database()
    said = str(refused.value)
    assert f"cannot make the server's state directory {state}: Not a directory" in said
    assert "set GRPO_STATE_DIR to a directory that can be written, or GRPO_DATABASE_URL" in said
