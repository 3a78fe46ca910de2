from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_host.plugins import Registry, load_plugins
from grpo_sdk import Backend, Capability, PluginError, Task, Trajectory, hookimpl
from grpo_sdk.testing import ScriptedBackend

REWARD = """
from grpo_sdk import hookimpl, reward

