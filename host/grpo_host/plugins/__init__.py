"""Find plugins behind entry points, load each in isolation, look up what they offer by name."""

from grpo_host.plugins.loading import load_plugins
from grpo_host.plugins.record import KINDS, Kind, Offer, Plugin
from grpo_host.plugins.registry import Registry

__all__ = ["KINDS", "Kind", "Offer", "Plugin", "Registry", "load_plugins"]
