"""An OpenEnv environment whose actions are calls of tools; run where openenv is installed."""

from fastmcp import FastMCP
from openenv.core.env_server import create_app
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation
from openenv.core.env_server.types import Observation, State


class Counter(MCPEnvironment):
    def __init__(self):
        self.count = 0
        server = FastMCP("counter")

        @server.tool
        def add(number: int) -> int:
            """Add a number to the count."""
            self.count += number
            return self.count

        super().__init__(server)

    def reset(self, seed=None, episode_id=None, start=0, **_):
        self.count = start
        return Observation(metadata={"seed": seed})

    def step(self, action, timeout_s=None, **given):
        return self._paid(super().step(action, timeout_s, **given))

    async def step_async(self, action, timeout_s=None, **given):
        return self._paid(await super().step_async(action, timeout_s, **given))

    def _paid(self, observation):
        if isinstance(observation, CallToolObservation):
            observation.reward = 0.0 if observation.error else 1.0
        return observation

    def _step_impl(self, action, timeout_s=None, **_):
        raise ValueError("only tools")

    @property
    def state(self):
        return State()


app = create_app(Counter, CallToolAction, CallToolObservation, env_name="counter")
