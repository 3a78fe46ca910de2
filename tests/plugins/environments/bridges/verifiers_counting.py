"""A taskset of verifiers with tools and a state; run where verifiers is installed."""

import verifiers.v1 as vf

__all__ = ["CountingTaskset"]


class CountingData(vf.TaskData):
    answer: int


class CountingState(vf.State):
    counted: int = 0


class CounterConfig(vf.ToolsetConfig):
    pass


class Counter(vf.Toolset[CounterConfig, CountingState]):
    async def setup_task(self, task):
        self.answer = task.answer

    @vf.tool
    def add(self, number: int) -> str:
        """Add a number to the count."""
        self.state.counted += number
        return f"{self.state.counted} of {self.answer}"


class CountingTask(vf.Task[CountingData, CountingState]):
    @classmethod
    def toolsets(cls, config):
        return [Counter(CounterConfig())]

    async def setup(self, trace, runtime):
        await runtime.write("answer", str(self.data.answer).encode())

    @vf.reward(weight=0.75)
    async def said(self, task, trace):
        return float(str(task.answer) in trace.last_reply)

    @vf.reward(weight=0.25)
    async def counted(self, trace, runtime):
        return float(trace.state.counted == int(await runtime.read("answer")))

    @vf.metric
    async def calls(self, trace):
        return float(len(trace.tool_messages))


class CountingConfig(vf.TasksetConfig):
    highest: int = 20


class CountingTaskset(vf.Taskset[CountingTask, CountingConfig]):
    def load(self):
        for number in range(2, self.config.highest):
            data = CountingData(prompt=f"Count to {number}.", system_prompt="Count.", answer=number)
            yield CountingTask(data, self.config.task)
