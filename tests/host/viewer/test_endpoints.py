"""What the viewer's API answers about runs that were written by hand."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace

import pytest
from filelock import FileLock
from starlette.testclient import TestClient

from grpo_host.cli import main
from grpo_host.runs.directory import RunDirectory
from grpo_host.viewer.app import create_app
from grpo_host.viewer.tokens import span_messages
from grpo_sdk.trajectory import Ledger, Trajectory

RUN = "20261128-100000-aaaa"
ONE = f"/api/runs/{RUN}"


@pytest.fixture
def shown(viewer, run: RunDirectory):
    viewer.indexed(RUN)
    return viewer


def test_a_run_is_listed_with_its_curve_and_what_it_gained(viewer, run: RunDirectory) -> None:
    (listed,) = viewer.get("/api/runs")["runs"]
    assert (listed["id"], listed["name"], listed["state"], listed["model"], listed["environment"]) == (
        RUN, "shop", "finished", "no-such-model", "shop",
    )  # fmt: skip
    assert (listed["steps"], listed["planned_steps"], listed["curve"]) == (2, 4, [0.5, 0.5])
    assert (listed["before"]["reward"], listed["after"]["low"]) == (0.1, 0.8)
    assert listed["size_bytes"] > run.trajectories.stat().st_size
    assert listed["settings"] == {}


def test_runs_of_an_agent_show_the_settings_in_which_they_differ(viewer, run: RunDirectory, make_run) -> None:
    with make_run("20261128-110000-bbbb", rate=0.2).agent_yaml.open("a") as file:
        file.write("serving: {port: 8002}\n")
    make_run("20261128-120000-cccc", name="other", rate=0.3)
    settings = {item["id"]: item["settings"] for item in viewer.get("/api/runs")["runs"]}
    assert settings == {
        "20261128-120000-cccc": {},
        "20261128-110000-bbbb": {"training.learning_rate": 0.2},
        RUN: {"training.learning_rate": 0.1},
    }


def test_the_first_question_about_a_small_run_waits_for_its_index(viewer, run: RunDirectory) -> None:
    assert viewer.get(f"{ONE}/trajectories")["total"] == 6


def test_runs_are_compared_once_all_of_their_trajectories_are_indexed(
    shown, run: RunDirectory, episode
) -> None:
    asked = {"a": f"{RUN}:before", "b": f"{RUN}:after"}
    with FileLock(run.path / "index.lock"):  # as another viewer that makes the index holds it
        run.append_trajectory(episode("before", "h-2", reward=0.0, split="held_out"))
        run.append_trajectory(episode("after", "h-2", reward=1.0, split="held_out"))
        assert "being indexed" in shown.get("/api/compare", answers=503, **asked)["error"]
    assert shown.get("/api/compare", **asked)["paired"]["n"] == 2


def test_a_run_that_is_held_by_a_process_is_running(viewer, make_run) -> None:
    directory = make_run()
    assert viewer.get(ONE)["state"] == "stopped"
    directory.acquire()
    try:
        assert viewer.get(ONE)["state"] == "running"
        for step in (1, 2):
            directory.append_metrics({"step": step, "time": 10.0 * step})
        assert viewer.get(ONE)["seconds_left"] == 20.0
    finally:
        directory.release()


def test_metrics_come_by_name_and_those_after_a_step_alone(shown) -> None:
    tools = ["tools/lookup/calls", "tools/lookup/errors"]
    assert shown.get(ONE)["series"] == ["entropy", "reward", *tools]
    assert shown.get(f"{ONE}/metrics") == {
        "steps": [1, 2],
        "series": {"entropy": [1.0, 0.5], "reward": [0.5, 0.5], tools[0]: [2, 2], tools[1]: [1, 1]},
        "whole": True,
    }
    assert shown.get(f"{ONE}/metrics", after=1)["series"]["entropy"] == [0.5]


def test_a_run_that_has_just_begun_is_there_at_once(viewer, make_run) -> None:
    viewer.get("/api/runs")
    make_run("20261128-180000-9999")
    assert viewer.get("/api/runs/20261128-180000-9999")["planned_steps"] == 4


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, ["after/h-1", "2/t-1/1", "2/t-1/0", "1/t-1/1", "1/t-1/0", "before/h-1"]),
        ({"q": "delayed", "step": "2"}, ["2/t-1/1"]),
        ({"q": '"not know"'}, ["before/h-1"]),
        ({"q": "delay perhaps", "order": "oldest"}, ["1/t-1/1", "2/t-1/1"]),
        ({"q": 'shipped" AND (', "step": "1"}, []),
        ({"step": "after"}, ["after/h-1"]),
        ({"split": "held_out", "order": "reward"}, ["before/h-1", "after/h-1"]),
        ({"tool_error": "true", "task": "t-1", "order": "oldest"}, ["1/t-1/1", "2/t-1/1"]),
        ({"min_reward": "0.5", "max_reward": "0.95"}, ["after/h-1"]),
        ({"success": "true", "step": "1"}, ["1/t-1/0"]),
        ({"status": "failed"}, []),
        ({"cut": "true"}, ["2/t-1/1"]),
        ({"scored": "false"}, []),
        ({"cut": "false", "step": "2"}, ["2/t-1/0"]),
    ],
)
def test_trajectories_are_found_by_words_and_filters(shown, query, found) -> None:
    answer = shown.get(f"{ONE}/trajectories", **query)
    assert [item["id"] for item in answer["trajectories"]] == found
    assert answer["total"] == len(found)


def test_a_page_of_trajectories_says_how_to_get_the_next_one_also_while_the_run_grows(
    shown, run: RunDirectory, episode
) -> None:
    first = shown.get(f"{ONE}/trajectories", limit=4)
    run.append_trajectory(episode("after", "h-2"))
    shown.indexed(RUN)
    second = shown.get(f"{ONE}/trajectories", limit=4, cursor=first["next"])
    ids = [item["id"] for page in (first, second) for item in page["trajectories"]]
    assert ids == ["after/h-1", "2/t-1/1", "2/t-1/0", "1/t-1/1", "1/t-1/0", "before/h-1"]
    assert second["next"] is None


def test_a_match_is_marked_and_what_a_model_wrote_stays_as_it_is(shown, run: RunDirectory, episode) -> None:
    run.append_trajectory(episode("after", "h-3", said="<script>alert(1)</script> parcel"))
    shown.indexed(RUN)
    (found,) = shown.get(f"{ONE}/trajectories", q="alert")["trajectories"]
    assert ["alert", True] in found["snippet"]
    assert "<script>" in found["snippet"][0][0]


def test_a_listed_trajectory_has_its_groups_advantage(shown) -> None:
    items = {item["id"]: item for item in shown.get(f"{ONE}/trajectories")["trajectories"]}
    assert items["1/t-1/0"]["advantage"] == pytest.approx(0.5 / (0.5**0.5 + 1e-4))
    assert items["1/t-1/0"]["group"] == "1/t-1"
    assert (items["1/t-1/0"]["step"], items["1/t-1/0"]["evaluation"]) == (1, None)
    assert (items["after/h-1"]["step"], items["after/h-1"]["evaluation"]) == (None, "after")
    assert (items["after/h-1"]["advantage"], items["after/h-1"]["group"]) == (None, None)
    assert items["1/t-1/1"] == items["1/t-1/1"] | {
        "reward": 0.0, "status": "completed", "turns": 1, "tokens": 3, "tool_calls": 1, "tool_errors": 1,
    }  # fmt: skip


def test_a_group_comes_whole_the_best_first(shown) -> None:
    listed = shown.get(f"{ONE}/groups", step=1)["groups"]
    assert listed == [
        {
            "id": "1/t-1",
            "task": "t-1",
            "step": 1,
            "rewards": [1.0, 0.0],
            "trajectories": ["1/t-1/0", "1/t-1/1"],
        }
    ]
    assert shown.get(f"{ONE}/groups")["step"] == 2
    group = shown.get(f"{ONE}/groups/1/t-1")
    assert [item["reward"] for item in group["trajectories"]] == [1.0, 0.0]
    assert [item["advantage"] > 0 for item in group["trajectories"]] == [True, False]
    assert group["trajectories"][1]["trajectory"]["messages"][2]["content"] == "Perhaps delayed?"


def test_a_task_that_comes_twice_in_a_step_makes_two_groups(viewer, make_run, episode) -> None:
    directory = make_run()
    for sample in range(4):
        directory.append_trajectory(episode("1", "t", sample, reward=float(sample)))
    viewer.indexed(RUN)
    listed = viewer.get(f"{ONE}/groups", step=1)["groups"]
    assert {item["id"]: item["rewards"] for item in listed} == {"1/t": [0.0, 1.0], "1/t/1": [2.0, 3.0]}


def test_a_trajectory_is_the_recorded_one_without_its_tokens(shown, run: RunDirectory, episode) -> None:
    answer = shown.get(f"{ONE}/trajectories/1/t-1/1")
    recorded = list(run.read_trajectories())[2]
    assert Trajectory.from_json(json.dumps(answer["trajectory"])).messages == recorded.messages
    assert "ledger" not in answer["trajectory"]
    assert (answer["agents"], answer["trace_id"], answer["group"]) == (None, None, "1/t-1")
    assert answer["advantage"] < 0


def test_every_token_has_what_the_ledger_knows_of_it(shown) -> None:
    (sequence,) = shown.get(f"{ONE}/trajectories/1/t-1/1/tokens")["sequences"]
    assert sequence["id"] == [1, 2, 3, 4, 5, 6]
    assert sequence["trained"] == [False] * 3 + [True] * 3
    assert sequence["logprob"] == [None] * 3 + [-0.1, -0.2, -0.3]
    assert sequence["policy_version"] == [None] * 3 + [3] * 3
    assert sequence["message"] == [0, 1, 1, 2, 2, 2]
    assert sequence["text"] == ["⟨1⟩", "⟨2⟩", "⟨3⟩", "⟨4⟩", "⟨5⟩", "⟨6⟩"]
    assert all(value < 0 for value in sequence["advantage"][3:])


def test_what_the_trainer_recorded_of_tokens_is_shown_where_they_stand(shown, run: RunDirectory) -> None:
    values = {"logprob": [-0.5, -0.6], "entropy": [1.5, 1.6], "ratio": [0.9, 0.8]}
    run.append_tokens({"id": "1/t-1/1", "step": 1, "sequence": 0, "start": 3, "advantage": -0.7, **values})
    (sequence,) = shown.get(f"{ONE}/trajectories/1/t-1/1/tokens")["sequences"]
    assert sequence["trainer_logprob"] == [None, None, None, -0.5, -0.6, None]
    assert sequence["entropy"] == [None, None, None, 1.5, 1.6, None]
    assert sequence["ratio"] == [None, None, None, 0.9, 0.8, None]
    (other,) = shown.get(f"{ONE}/trajectories/1/t-1/0/tokens")["sequences"]
    assert (other["trainer_logprob"], other["entropy"], other["ratio"]) == (None, None, None)


def test_each_agent_has_the_messages_of_its_own_contexts(viewer, make_run, episode) -> None:
    one = episode("1", "t", 0)
    [sequence] = one.ledger.sequences
    roles = [replace(sequence, role=role) for role in ("desk", "search", "desk")]
    directory = make_run()
    directory.append_trajectory(replace(one, ledger=Ledger(roles)))
    viewer.indexed(RUN)
    answer = viewer.get(f"{ONE}/trajectories/1/t/0")
    assert answer["agents"] == [{"role": "desk", "sequences": [0, 2]}, {"role": "search", "sequences": [1]}]
    for found in viewer.get(f"{ONE}/trajectories/1/t/0/tokens")["sequences"]:
        assert found["messages"] == [
            {"role": "system", "text": "⟨1⟩", "sampled": False},
            {"role": "user", "text": "⟨2⟩⟨3⟩", "sampled": False},
            {"role": "assistant", "text": "⟨4⟩⟨5⟩⟨6⟩", "sampled": True},
        ]


def test_a_message_of_a_lane_is_without_what_the_template_writes_around_it() -> None:
    class Tokenizer:
        def decode(self, ids, skip_special_tokens):
            assert skip_special_tokens
            return "".join({1: "user\n", 2: "Where?", 3: "\n"}[id] for id in ids)

    span = {"start": 0, "end": 3, "role": "user"}
    [found] = span_messages([1, 2, 3], [0, 0, 0], [span], Tokenizer())
    assert found == {"role": "user", "text": "Where?", "sampled": False}


def test_tools_that_a_policy_made_up_have_no_curves(viewer, make_run, episode) -> None:
    directory = make_run()
    directory.append_metrics({"step": 1, "reward": 0.5})
    for number in range(60):
        directory.append_trajectory(episode("1", "t", number))
    wrong = episode("1", "t", 60, tool_error="no such tool")
    (turn,) = wrong.turns
    wrong.turns[0] = replace(turn, tools=[replace(turn.tools[0], name="look_up_please")])
    directory.append_trajectory(wrong)
    viewer.indexed(RUN)
    series = viewer.get(f"{ONE}/metrics")["series"]
    assert [name for name in series if name.startswith("tools/")] == [
        "tools/lookup/calls",
        "tools/lookup/errors",
    ]


def test_a_trajectory_leads_to_its_trace_where_traces_are_shown(output, make_run, episode) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    make_run().append_trajectory(replace(episode("1", "t", 0), trace=trace))
    for template, expected in ((None, None), ("https://traces/{trace_id}?x", f"https://traces/{trace}?x")):
        with TestClient(create_app(output, trace_url=template)) as client:
            while (answer := client.get(f"{ONE}/trajectories/1/t/0")).status_code == 503:
                time.sleep(0.01)
            answer = answer.json()
        assert (answer["trace_id"], answer["trace_url"]) == (trace, expected)


@pytest.mark.parametrize("wrong", ["javascript:alert({trace_id})", "https://traces/"])
def test_an_address_that_leads_to_no_trace_is_refused(output, capsys, wrong) -> None:
    output.mkdir()
    assert main(["view", str(output), "--trace-url", wrong]) == 2
    assert "is no http(s) address with {trace_id} in it" in capsys.readouterr().err


def test_evaluations_are_compared_task_by_task(shown) -> None:
    answer = shown.get("/api/compare", a=f"{RUN}:before", b=f"{RUN}:held_out/after")
    assert answer["paired"]["n"] == 1
    assert answer["paired"]["difference"] == pytest.approx(0.8)
    (task,) = answer["tasks"]
    assert (task["task"], task["a"]["id"], task["b"]["reward"]) == ("h-1", "before/h-1", 0.9)
    assert task["a"]["success"] is None
    (task,) = shown.get("/api/compare", a=f"{RUN}:1", b=f"{RUN}:2")["tasks"]
    assert task["b"]["success"] == 1.0, "of those that say so"


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/runs/nothing", 404, "there is no run nothing"),
        ("/api/runs/..%2f..%2fetc/metrics", 404, "the API has no"),
        (f"{ONE}/trajectories/9/none", 404, "the run has no trajectory 9/none"),
        (f"{ONE}/groups/9/none", 404, "the run has no group 9/none"),
        (f"{ONE}/trajectories?order=best", 400, "order"),
        (f"{ONE}/trajectories?cursor=x", 400, "cursor"),
        (f"{ONE}/metrics?after=x", 400, "after"),
        (f"{ONE}/nothing", 404, "the API has no"),
        (f"/api/compare?a={RUN}:early&b={RUN}", 404, "no scored episodes of early"),
        ("/api/compare?a=x", 400, "b"),
    ],
)
def test_what_cannot_be_answered_is_said_in_words(shown, path, status, words) -> None:
    assert words in shown.get(path, status)["error"]


def test_the_openapi_document_has_every_endpoint_with_its_query(viewer, output) -> None:
    output.mkdir()
    document = viewer.get("/api/openapi.json")
    routes = {re.sub(":path}", "}", route.path) for route in viewer.client.app.routes}
    assert set(document["paths"]) == {
        path for path in routes if path.startswith("/api/") and "rest" not in path
    }
    listing = document["paths"]["/api/runs/{run}/trajectories"]["get"]
    assert {"run", "q", "tool_error", "cursor"} <= {item["name"] for item in listing["parameters"]}
    assert all(path["get"]["summary"] for path in document["paths"].values())
