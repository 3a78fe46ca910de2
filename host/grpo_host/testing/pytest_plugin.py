"""Fixtures for tests of plugins. Every pytest loads this where we are installed: it imports nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from grpo_host.testing.host import PluginHost
    from grpo_sdk.messages import Message
    from grpo_sdk.testing.scripted import ScriptedBackend
    from grpo_sdk.testing.token_backend import TokenBackend


@pytest.fixture
def grpo_scripted_backend() -> Callable[..., ScriptedBackend]:
    """Makes a backend that says what it is given: ``grpo_scripted_backend("Hi!", "Goodbye.")``."""

    def make(*replies: Message | str) -> ScriptedBackend:
        from grpo_sdk.testing.scripted import ScriptedBackend

        return ScriptedBackend(replies=replies or ("Hello! How can I help you?",))

    return make


@pytest.fixture
def grpo_token_backend() -> TokenBackend:
    """A tiny backend of token ids that really samples, with log-probs, seeds and limits, without torch."""
    from grpo_sdk.testing.token_backend import TokenBackend

    return TokenBackend()


@pytest.fixture
def grpo_plugin_host() -> Callable[[str], PluginHost]:
    """Makes a host with the built-in plugins and a distribution's: ``grpo_plugin_host("acme-rewards")``."""

    def make(distribution: str) -> PluginHost:
        from grpo_host.testing.host import PluginHost

        return PluginHost(distribution)

    return make
