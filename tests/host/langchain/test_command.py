"""Apps in processes of their own: their model calls come over HTTP, and are recorded as any others."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from grpo_host.agents.agent import Agent, AgentLimits
from grpo_host.agents.rendering import make_renderer
from grpo_host.config.schema import AppUse
from grpo_host.langchain.app import load_app
from grpo_host.langchain.app_agent import AppAgent, AppMapping
from grpo_host.rollouts.episode import EpisodeRequest, run_episode
from grpo_sdk import Environment, Observation, Sampling, StepResult, Task, Trajectory, user
from grpo_sdk.errors import ConfigError

PYTHON = """
import json, os, sys, urllib.request
given = json.load(sys.stdin)
def ask(messages, **more):
    body = json.dumps({"model": "desk", "messages": messages, **more}).encode()
    request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body,
        {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))["choices"][0]["message"]
tools = [{"type": "function", "function": {"name": "lookup", "description": "Find an order.",
    "parameters": {"type": "object", "properties": {"order": {"type": "string"}}}}}]
messages = [{"role": "system", "content": "Help."}, *given["messages"]]
while (said := ask(messages, tools=tools)).get("tool_calls"):
    messages.append(said)
    for call in said["tool_calls"]:
        order = json.loads(call["function"]["arguments"])["order"]
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": order + " is packed"})
print(said["content"])
"""

NODE = """
let text = ""; for await (const part of process.stdin) text += part;
const given = JSON.parse(text);
const answer = await fetch(process.env.OPENAI_BASE_URL + "/chat/completions", {
  method: "POST",
  headers: { authorization: "Bearer " + process.env.OPENAI_API_KEY, "content-type": "application/json" },
  body: JSON.stringify({ model: "desk", messages: given.messages, stream: true }),
});
let said = "";
for (const line of (await answer.text()).split("\\n"))
  if (line.startsWith("data: {")) said += JSON.parse(line.slice(6)).choices[0].delta.content ?? "";
console.log(JSON.stringify({ messages: [...given.messages, { role: "assistant", content: said }] }));
"""


class Talk(Environment):
    """Asks one question."""

    def tasks(self, split: str) -> list[Task]:
        return []

    async def reset(self, task: Task, *, seed: int) -> Observation:
        return Observation([user(task.data["line"])])

    async def step(self, action: Any) -> StepResult:
        return StepResult(done=True, outcome={"heard": action["content"]})


def asks_once(heard: str) -> str:
    question = heard.rsplit("user\n", 1)[-1]
    if "packed" in question or "lookup" not in heard:
        return "It is packed."
    return '<tool_call>{"name": "lookup", "arguments": {"order": "A12"}}</tool_call>'


def app_of(tmp_path: Path, code: str, *, program: str = sys.executable, others: str = "refuse"):
    (tmp_path / "shop.mjs").write_text(code)
    return load_app(AppUse(command=[program, "shop.mjs"], folder=str(tmp_path)), others)


def agent_of(backend, app, *, turns: int = 20, turn_seconds: float = 20.0) -> AppAgent:
    agent = Agent(
        backend,
        make_renderer(backend.tokenizer, backend.model),
        sampling=Sampling(max_tokens=10_000),
        limits=AgentLimits(turns=turns, turn_seconds=turn_seconds),
    )
    return AppAgent(agent, app, AppMapping())


async def episode(
    agent, line: str = "Where is A12?", *, seconds: float = 30.0, number: int = 0
) -> Trajectory:
    request = EpisodeRequest(Task(f"t{number}", {"line": line}), seed=3, id=f"t{number}/0")
    return await run_episode(agent, Talk, request, environment_name="talk", seconds=seconds)


async def play(agent, *lines: str, **options: Any) -> list[Trajectory]:
    """One episode a line, side by side; the app is closed after them."""

    try:
        episodes = [episode(agent, line, number=n, **options) for n, line in enumerate(lines)]
        return await asyncio.gather(*episodes)
    finally:
        agent.app.close()


def assert_exact(backend, *trajectories: Trajectory) -> None:
    counted = sum(trajectory.ledger.sampled for trajectory in trajectories)
    assert counted == sum(len(ids) for _, ids in backend.log) > 0


async def test_an_app_in_another_process_is_played_and_each_sampled_id_recorded(tokens, tmp_path):
    backend = tokens(asks_once)
    [trajectory] = await play(agent_of(backend, app_of(tmp_path, PYTHON)), "Where is A12?")
    assert trajectory.error is None
    assert trajectory.outcome == {"heard": "It is packed."}
    roles = ["system", "user", "assistant", "tool", "assistant"]
    assert [message["role"] for message in trajectory.messages] == roles
    [sequence] = trajectory.ledger.sequences  # the history only grew
    assert sequence.role == "desk", "the model that a request names"
    assert_exact(backend, trajectory)


async def test_a_javascript_app_that_streams_is_played(tokens, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    backend = tokens(asks_once)
    [trajectory] = await play(agent_of(backend, app_of(tmp_path, NODE, program=node)), "Where is A12?")
    assert (trajectory.error, trajectory.outcome) == (None, {"heard": "It is packed."})
    assert_exact(backend, trajectory)


async def test_episodes_side_by_side_do_not_hear_one_another(tokens, tmp_path):
    backend = tokens(lambda heard: "I heard " + heard.rsplit("user\n", 1)[-1].split()[0])
    agent = agent_of(backend, app_of(tmp_path, PYTHON))
    trajectories = await play(agent, *(f"number-{n}" for n in range(6)))
    assert [t.outcome["heard"] for t in trajectories] == [f"I heard number-{n}" for n in range(6)]
    assert_exact(backend, *trajectories)


FAILURES = {
    "import sys; sys.exit('no stock')": "ended with status 1: no stock",
    "import os; os.kill(os.getpid(), 9)": "was killed by signal 9: it wrote nothing to stderr",
    "import sys; sys.stdout.buffer.write(b'\\xff')": "printed what is not UTF-8",
    'print(\'{"messages": [{"role": 3}]}\')': "printed messages that are none",
    "print('{\"total\": 3}')": "it gives total and no messages",
    "print('x' * 5 * 2**20)": "printed more than 4 MiB",
}


@pytest.mark.parametrize("code", FAILURES)
async def test_an_app_that_fails_is_that_episodes_failure_in_words(tokens, tmp_path, code):
    [trajectory] = await play(agent_of(tokens(asks_once), app_of(tmp_path, code)), "Where?")
    assert FAILURES[code] in trajectory.error


async def test_an_app_that_asks_too_often_is_cut_as_any_agent_is(tokens, tmp_path):
    backend = tokens(lambda _: '<tool_call>{"name": "lookup", "arguments": {"order": "A12"}}</tool_call>')
    [trajectory] = await play(agent_of(backend, app_of(tmp_path, PYTHON), turns=3), "Where?")
    assert (trajectory.stop_reason, trajectory.error) == ("turn_limit", None)
    assert len(trajectory.turns) == 3
    assert_exact(backend, trajectory)


async def test_an_episode_that_is_over_leaves_no_process(tokens, tmp_path):
    code = f"""
import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "60"])
open({str(tmp_path / "pids")!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
time.sleep(60)
"""
    [trajectory] = await play(agent_of(tokens(asks_once), app_of(tmp_path, code)), "Where?", seconds=2.0)
    assert trajectory.stop_reason == "episode_timeout"
    for pid in (tmp_path / "pids").read_text().split():
        assert not alive(int(pid))


def alive(pid: int) -> bool:
    ends = time.monotonic() + 5
    while time.monotonic() < ends:  # init reaps it
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.02)
    return True


TELLS = 'import os; print(sorted(n for n in os.environ if n.endswith("_API_KEY")))'


@pytest.mark.parametrize(("others", "told"), [("refuse", False), ("keep", True)])
async def test_keys_of_other_providers_are_kept_only_if_other_models_are(
    tokens, tmp_path, monkeypatch, others, told
):
    monkeypatch.setenv("OTHER_API_KEY", "secret")
    [trajectory] = await play(agent_of(tokens(asks_once), app_of(tmp_path, TELLS, others=others)), "Where?")
    assert ("OTHER_API_KEY" in trajectory.outcome["heard"]) is told
    assert "OPENAI_API_KEY" in trajectory.outcome["heard"]


REFUSED = """
import json, os, sys, urllib.error, urllib.request
def ask(path="/chat/completions", key=os.environ["OPENAI_API_KEY"], **more):
    body = json.dumps({{"model": "m", "messages": [{{"role": "user", "content": "x"}}], **more}}).encode()
    request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + path, body, {{"Authorization": "Bearer " + key}})
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as problem:
        return problem.code, json.load(problem)["error"]["message"]
print(json.dumps({{"messages": [{{"role": "assistant", "content": json.dumps(ask({asked}))}}]}}))
"""

REQUESTS = {
    'key="sk-other"': (401, "key of no episode"),
    "n=2": (400, "one answer a call"),
    "logprobs=True": (400, "one answer a call"),
    "temperatur=1": (400, "Did you mean"),
    'tool_choice="required", tools=[]': (400, "none of the tools"),
    'response_format={"type": "json_object"}': (400, "capability structured"),
}


@pytest.mark.parametrize("asked", REQUESTS)
async def test_a_request_that_cannot_be_answered_says_why(tokens, tmp_path, asked):
    backend = tokens(asks_once)
    [trajectory] = await play(agent_of(backend, app_of(tmp_path, REFUSED.format(asked=asked))), "Where?")
    status, message = json.loads(trajectory.outcome["heard"])
    expected, words = REQUESTS[asked]
    assert status == expected
    assert words in message
    assert not backend.log


async def test_an_app_cannot_post_rewards(tokens, tmp_path):
    code = REFUSED.format(asked='path="/rewards"').replace('json.load(problem)["error"]["message"]', '""')
    [trajectory] = await play(agent_of(tokens(asks_once), app_of(tmp_path, code)), "Where?")
    assert json.loads(trajectory.outcome["heard"])[0] == 404


def test_a_program_that_is_not_there_is_said_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no program nodeX in .* or on PATH"):
        load_app(AppUse(command=["nodeX"], folder=str(tmp_path)))
    with pytest.raises(ConfigError, match="there is no folder"):
        load_app(AppUse(command=["true"], folder=str(tmp_path / "nowhere")))


def test_an_app_has_a_name_or_a_command():
    with pytest.raises(ValueError, match="a name or a command"):
        AppUse()
    with pytest.raises(ValueError, match="a name or a command"):
        AppUse(name="shop:app", command=["node"])


def test_a_relative_program_is_found_in_the_apps_folder(tmp_path):
    (tmp_path / "app").write_text("#!/bin/sh\necho hello\n")
    os.chmod(tmp_path / "app", 0o755)
    assert load_app(AppUse(command=["./app"], folder=str(tmp_path))).name == "./app"
