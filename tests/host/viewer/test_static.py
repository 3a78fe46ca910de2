"""The viewer's page in Chromium: what one sees, types and clicks; and that what a model wrote stays text."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import urllib.request
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from grpo_host.runs.directory import RunDirectory
from grpo_host.viewer.app import create_app
from grpo_sdk.trajectory import Ledger, Trajectory

pytestmark = pytest.mark.slow

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

EVIL = "<script>document.title = 'evil'</script><img src=x onerror=\"document.title = 'evil'\">"
GOOD, OTHER, GROWING = "20261128-100000-aaaa", "20261128-110000-bbbb", "20261128-120000-cccc"
PICTURES, PICTURES_OF = os.environ.get("GRPO_PICTURES"), os.environ.get("GRPO_PICTURES_OF")
"""A directory for pictures of each page, and one with the runs that they show: so docs/pictures/ is made."""
SIZES = {"wide": (1280, 800), "phone": (390, 844)}
NARROW = ["scrollable-region-focusable", "aria-hidden-focus"]
RULES = {
    "wide": (("light", None), ("dark", ["color-contrast"])),
    "phone": (("light", NARROW), *((("dark", NARROW),) if PICTURES else ())),
}
"""What axe looks at for each size: all once, then what colours change, and what another width does."""


@pytest.fixture(scope="module")
def served(tmp_path_factory, browser, listening, episode, write_run):
    """The address of a viewer with a finished run, another one, and one that grows, which is given too."""
    output = tmp_path_factory.mktemp("runs")
    for run_id, rate in ((GOOD, 0.1), (OTHER, 0.2)):
        directory = write_run(output, run_id, rate=rate)
        _finish(directory, episode, better=rate)
    growing = write_run(output, GROWING, name="growing")
    growing.append_metrics(_metrics(1))
    with listening(create_app(Path(PICTURES_OF or output))) as address:
        yield address, growing


def _metrics(step: int) -> dict[str, float]:
    return {
        "step": step,
        "time": 0.0,
        "reward": 1 - math.exp(-step / 3),
        "reward_std": 0.2,
        "rewards/right/mean": 1 - math.exp(-step / 3),
        "entropy": 1 / step,
        "completions/mean_length": 40.0 + step,
        "seconds/rollouts": 3.0,
        "seconds/training": 5.0,
        "unheard_of": 1.0,
        "rollouts/cut": 0.9,
    }


def _finish(directory: RunDirectory, episode, better: float) -> None:
    interval = {"mean": 0.8 + better, "low": 0.7, "high": 1.0}
    measured = {"split": "held_out", "episodes": 4, "failed": 0, "success": None}
    before = {**measured, "reward": {"mean": 0.1, "low": 0.0, "high": 0.2}}
    report = {"before": before, "after": {**measured, "reward": interval}, "steps": 4}
    directory.write_json(directory.report, report)
    for task in range(4):
        directory.append_trajectory(
            episode("before", f"h-{task}", reward=0.1 * task, said="I do not know.", split="held_out")
        )
        directory.append_trajectory(
            episode("after", f"h-{task}", reward=0.9 - 0.2 * task + better, split="held_out")
        )
    for step in range(1, 5):
        directory.append_metrics(_metrics(step))
        directory.append_trajectory(episode(str(step), "t-1", 0, reward=1.0, success=True))
        said = EVIL if step == 2 else "Perhaps delayed?"
        cut = "length" if step == 3 else "stop"
        worse = episode(str(step), "t-1", 1, reward=0.0, said=said, tool_error="no such order", finish=cut)
        changed = {3: _with_call, 4: _of_two_agents}.get(step, lambda item: item)
        directory.append_trajectory(changed(worse))


def _of_two_agents(episode: Trajectory) -> Trajectory:
    (sequence,) = episode.ledger.sequences
    return replace(episode, ledger=Ledger([replace(sequence, role=role) for role in ("desk", "checker")]))


def _with_call(episode: Trajectory) -> Trajectory:
    call = {"id": "c1", "type": "function", "function": {"name": "lookup", "arguments": '{"id": "t-1"}'}}
    *asked, answer = episode.messages
    called = {"role": "assistant", "content": "", "tool_calls": [call]}
    result = {"role": "tool", "content": "no such order", "tool_call_id": "c1", "name": "lookup"}
    return replace(episode, messages=[*asked, called, result, answer])


@pytest.fixture
def opened(page, served):
    """Opens an address of the page."""

    def open_(address: str = ""):
        page.goto(served[0] + address)
        return page

    return open_


def test_runs_are_listed_with_what_differs_and_filtered_by_words(opened):
    page = opened()
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(3)
    expect(rows.filter(has_text=GOOD)).to_contain_text("0.10")
    expect(rows.filter(has_text=OTHER)).to_contain_text("learning_rate 0.2")
    page.get_by_label("Filter").fill("growing")
    expect(rows).to_have_count(1)
    assert "q=growing" in page.url, "a link shows the same"


def test_a_run_shows_its_held_out_results_and_a_chart_of_each_metric(opened):
    page = opened(f"#/run/{GOOD}")
    expect(page.get_by_role("region", name="Held-out")).to_contain_text("0.90")
    chart = page.get_by_role("img", name=re.compile("^Reward\\."))
    expect(chart.locator("canvas")).to_be_visible()
    page.get_by_text("Other metrics").click()
    expect(page.get_by_text("unheard_of").first).to_be_visible()
    chart.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".chart .legend").first).to_contain_text("step 1")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(f"{GOOD}/groups\\?step=1"))


def test_a_diagnosis_says_since_when_and_leads_to_the_replies_that_show_it(opened):
    page = opened(f"#/run/{GOOD}")
    fault = page.locator(".diagnosis li").filter(has_text="were cut")
    expect(fault).to_contain_text("Since step 1: 90% of the replies")
    fault.get_by_role("link", name="replies that were cut").click()
    expect(page.get_by_text("1 trajectory")).to_be_visible()
    page.get_by_role("link", name="3/t-1/1").click()
    expect(page.locator(".message .warn")).to_have_text("cut off")


def test_a_run_that_ends_shows_its_last_measurement_without_a_reload(opened, served, write_run):
    directory = write_run(served[1].path.parents[1], "20261128-150000-ffff", name="ending")
    try:
        directory.acquire()
        for step in (3, 4):
            directory.append_metrics({**_metrics(step), "time": 10.0 * step})
        page = opened("#/run/20261128-150000-ffff")
        expect(page.locator(".facts")).to_contain_text("measures and saves")
        measured = {"split": "held_out", "episodes": 4, "failed": 0, "success": None}
        after = {**measured, "reward": {"mean": 0.77, "low": 0.7, "high": 0.8}}
        directory.write_json(directory.report, {"before": measured, "after": after, "steps": 4})
        directory.release()
        expect(page.get_by_text("finished")).to_be_visible()
        expect(page.get_by_role("region", name="Held-out")).to_contain_text("0.77")
    finally:
        shutil.rmtree(directory.path)


def test_a_reward_that_decides_alone_leads_to_the_curves_of_each(opened, served, write_run):
    directory = write_run(served[1].path.parents[1], "20261128-160000-0000", name="uneven")
    try:
        with directory.agent_yaml.open("a") as file:
            file.write("rewards: [{name: ./mine.py:right, weight: 5}, {name: brief, weight: 0.1}]\n")
        spread = {"rewards/right/std": 0.3, "rewards/brief/std": 0.1, "rewards/brief/mean": 0.4}
        for step in (1, 2, 3):
            directory.append_metrics({**_metrics(step), "rollouts/cut": 0.0, **spread})
        page = opened("#/run/20261128-160000-0000")
        fault = page.locator(".diagnosis li").filter(has_text="the reward right alone decides")
        fault.get_by_role("button", name="show each reward").click()
        expect(page.locator(".chart.marked figcaption")).to_have_text("Parts of the reward")
    finally:
        shutil.rmtree(directory.path)


def test_a_run_that_failed_says_why_and_leads_to_what_was_not_scored(opened, served, write_run, episode):
    directory = write_run(served[1].path.parents[1], "20261128-140000-eeee", name="failing")
    try:
        directory.append_metrics({**_metrics(1), "reward": None})
        directory.append_trajectory(episode("1", "t-1", 0, reward=None, said="Unscored."))
        directory.append_trajectory(episode("1", "t-1", 1))
        directory.write_json(directory.report, {"error": "RunError: no episode has a reward"})
        page = opened("#/run/20261128-140000-eeee")
        fault = page.locator(".diagnosis li").first
        expect(fault).to_contain_text("The run ended after step 1 with RunError: no episode has a reward")
        fault.get_by_role("link", name="the last trajectories").click()
        expect(page.get_by_text("2 trajectories")).to_be_visible()
        page.get_by_label("Scored").select_option("no reward")
        expect(page.get_by_text("1 trajectory")).to_be_visible()
        expect(page.locator(".found")).to_contain_text("Unscored.")
    finally:
        shutil.rmtree(directory.path)


def test_a_step_that_ends_is_drawn_without_a_reload(opened, served):
    _, growing = served
    growing.acquire()  # so that it counts as running
    try:
        page = opened(f"#/run/{GROWING}")
        expect(page.get_by_text("running")).to_be_visible()
        legend = page.locator(".chart .legend").first
        expect(legend).to_contain_text("step 1")
        growing.append_metrics(_metrics(2))
        expect(legend).to_contain_text("step 2")
    finally:
        growing.release()
    expect(page.get_by_text("stopped")).to_be_visible()


def test_the_calls_of_each_tool_are_drawn_when_a_run_is_first_opened(
    opened, page, served, write_run, episode
):
    directory = write_run(served[1].path.parents[1], "20261128-130000-dddd", name="unopened")
    try:
        for step in (1, 2):
            directory.append_metrics({**_metrics(step), "rollouts/tool_calls": 1})
            directory.append_trajectory(episode(str(step), "t-1", 0))
        early = {"steps": [1, 2], "series": {"rollouts/tool_calls": [1, 1]}, "whole": False}
        page.route("**/20261128-130000-dddd/metrics", lambda route: route.fulfill(json=early), times=1)
        opened("#/run/20261128-130000-dddd")
        expect(page.locator(".chart").filter(has_text="Tool calls").first).to_contain_text("lookup")
    finally:
        shutil.rmtree(directory.path)


def test_words_are_found_marked_and_lead_to_their_trajectory(opened):
    page = opened(f"#/run/{GOOD}/trajectories")
    page.get_by_label("Words").fill("delayed")
    expect(page.locator("mark").first).to_have_text("delayed")
    expect(page.get_by_text("3 trajectories")).to_be_visible()
    page.get_by_label("Step").fill("3")
    expect(page.get_by_text("1 trajectory")).to_be_visible()
    page.get_by_role("link", name="3/t-1/1").click()
    expect(page.get_by_text("Perhaps delayed?")).to_be_visible()
    page.go_back()
    expect(page.get_by_label("Words")).to_have_value("delayed")


def test_a_search_is_typed_while_the_run_grows_and_what_is_new_comes_when_one_asks(opened, served, episode):
    growing = served[1]
    growing.append_trajectory(episode("9", "t-9", 0, said="A needle of hay."))
    growing.acquire()  # so that it counts as running
    try:
        page = opened(f"#/run/{GROWING}/trajectories?step=9")
        status = page.get_by_role("status").filter(has_text="trajector")
        expect(status).to_have_text("1 trajectory")
        words = page.get_by_label("Words")
        words.press_sequentially("need")
        # Each answer to the question how far the run is draws the page anew.
        page.evaluate("dispatchEvent(new HashChangeEvent('hashchange'))")
        words.press_sequentially("le hay")
        expect(page.locator("mark")).to_have_text(["needle", "hay"])
        expect(words).to_have_value("needle hay")
        growing.append_trajectory(episode("9", "t-9", 1, said="Hay without."))
        growing.append_trajectory(episode("9", "t-9", 2, said="Hay, and a needle."))
        more = page.get_by_role("button", name="1 more by now: show")
        expect(more).to_be_visible()
        expect(status).to_contain_text("1 trajectory")
        more.click()
        expect(status).to_have_text("2 trajectories")
    finally:
        growing.release()


def test_two_fields_that_are_typed_one_after_the_other_are_both_asked_for(opened):
    page = opened(f"#/run/{GOOD}/trajectories")
    expect(page.locator(".found li").first).to_be_visible()
    page.get_by_label("Words").press_sequentially("delayed")
    page.get_by_label("Step").press_sequentially("3")
    expect(page).to_have_url(re.compile(r"q=delayed&step=3|step=3&q=delayed"))


def test_markup_in_what_a_model_wrote_stays_text(opened):
    page = opened(f"#/run/{GOOD}/trajectory/2%2Ft-1%2F1")
    expect(page.get_by_text("document.title = 'evil'").first).to_be_visible()
    page.get_by_role("link", name="Record").click()
    expect(page.locator("pre.record")).to_contain_text("<script>")
    opened(f"#/run/{GOOD}/group/2%2Ft-1")
    expect(page.locator(".member")).to_have_count(2)
    opened(f"#/run/{GOOD}/trajectories?q=title")
    expect(page.locator("mark").first).to_be_visible()
    assert page.locator("main img, main script").count() == 0
    assert page.title() != "evil"


def test_a_tool_call_is_folded_with_its_failure_in_view(opened):
    page = opened(f"#/run/{GOOD}/trajectory/3%2Ft-1%2F1")
    call = page.locator("details.call")
    expect(call).to_contain_text("failed")
    expect(call.locator("pre").first).to_be_hidden()
    call.locator("summary").click()
    expect(call.locator("pre.bad")).to_have_text("no such order")
    expect(call.locator("pre.bad")).to_be_visible()


def test_the_agents_of_an_app_stand_side_by_side(opened, faults):
    page = opened(f"#/run/{GOOD}/trajectory/4%2Ft-1%2F1")
    expect(page.locator(".lane > h3")).to_have_text(["Conversation", "desk", "checker"])
    expect(page.locator(".lane").last.locator(".message")).to_have_count(3)
    assert not faults()


def test_tokens_are_coloured_by_what_one_chooses_and_read_by_the_arrow_keys(opened):
    page = opened(f"#/run/{GOOD}/trajectory/1%2Ft-1%2F0?view=tokens")
    sampled = page.locator(".tokens .tok").nth(4)
    expect(sampled).to_have_class(re.compile("mask-8"))
    page.get_by_role("radio", name="Probability").check()
    expect(sampled).to_have_class(re.compile("down-1"))
    assert "colour=probability" in page.url
    expect(page.get_by_label("Entropy")).to_be_disabled()
    tokens = page.get_by_role("group", name=re.compile("Tokens"))
    tokens.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    expect(page.locator(".values")).to_contain_text("82 %")
    expect(page.locator(".block h4")).to_have_text(["1 · system", "2 · user", "3 · assistant"])


def test_the_versions_that_sampled_are_those_of_what_was_sampled(opened):
    page = opened(f"#/run/{GOOD}/trajectory/1%2Ft-1%2F0?view=tokens&colour=version")
    expect(page.locator(".scale li")).to_have_text(["version 3"])


def test_a_group_stands_side_by_side_the_best_first(opened):
    page = opened(f"#/run/{GOOD}/groups?step=3")
    page.get_by_role("link", name=re.compile("t-1")).click()
    members = page.locator(".member")
    expect(members.first).to_contain_text("1.00")
    expect(members.first).to_contain_text("advantage +")
    expect(members.last).to_contain_text("advantage \N{MINUS SIGN}")
    expect(page.get_by_text("All begin with 2 messages")).to_be_visible()


def test_calls_that_were_answered_otherwise_are_not_shown_as_what_all_begin_with(opened, served, episode):
    growing = served[1]
    for sample, answer in enumerate(("it is packed", "it is lost")):
        played = _with_call(episode("7", "t-7", sample, reward=float(sample)))
        messages = [
            {**message, "content": answer} if message["role"] == "tool" else message
            for message in played.messages
        ]
        growing.append_trajectory(replace(played, messages=messages))
    page = opened(f"#/run/{GROWING}/group/7%2Ft-7")
    expect(page.get_by_text("All begin with 2 messages")).to_be_visible()
    expect(page.locator(".member").first.locator("details.call")).to_contain_text("it is lost")
    expect(page.locator(".member").last.locator("details.call")).to_contain_text("it is packed")


def test_long_words_of_a_reward_are_folded(opened, served, episode):
    growing = served[1]
    played = episode("8", "t-8", 0)
    given = replace(played.rewards["right"], explanation="because " * 100)
    growing.append_trajectory(replace(played, rewards={"right": given}))
    page = opened(f"#/run/{GROWING}/trajectory/8%2Ft-8%2F0")
    expect(page.locator(".rewards .why")).to_contain_text("Show all 800 characters")


def test_a_run_of_too_few_steps_is_not_said_to_be_sound(opened):
    page = opened(f"#/run/{GROWING}")
    expect(page.get_by_text("Nothing yet: most rules look at 3 steps in a row.")).to_be_visible()


def test_a_chart_s_ticks_say_the_numbers_where_they_stand(opened):
    page = opened(f"#/run/{GOOD}")
    expect(page.locator(".chart canvas").first).to_be_visible()
    said = page.evaluate(
        "async () => { const { tickText } = await import('./parts/chart.js');"
        " return [[0.25, 0.25], [1, 0.5], [20, 10], [0.375, 0.025]].map(([tick, by]) => tickText(tick, by)); }"
    )
    assert said == ["0.25", "1.0", "20", "0.375"]


def test_two_runs_are_chosen_and_compared_task_by_task(opened):
    page = opened()
    for run in (GOOD, OTHER):
        page.get_by_label(re.compile(f"Choose .*{run}")).check()
    page.get_by_role("button", name="Compare two").click()
    expect(page.locator(".verdict")).to_contain_text("+0.10")
    page.get_by_role("button", name="h-0").click()
    expect(page.locator(".lane")).to_have_count(2)


def test_a_page_asks_again_while_the_server_is_busy(opened, page, problems):
    busy = json.dumps({"error": "the trajectories are being indexed"})
    page.route("**/api/compare?*", lambda route: route.fulfill(status=503, body=busy), times=1)
    opened(f"#/compare?a={GOOD}&b={OTHER}")
    expect(page.get_by_text("the trajectories are being indexed")).to_be_visible()
    expect(page.locator(".verdict")).to_contain_text("+0.10")
    assert problems, "the browser reports the 503"
    problems.clear()


def test_two_runs_are_drawn_on_one_chart(opened):
    page = opened(f"#/run/{GOOD}?with={OTHER}")
    legend = page.locator(".chart .legend").first
    expect(legend).to_contain_text("aaaa")
    expect(legend).to_contain_text("bbbb")


def test_what_the_server_refuses_is_said_in_its_words(opened, problems):
    page = opened("#/run/none")
    expect(page.get_by_role("alert")).to_contain_text("none")
    page.wait_for_load_state("networkidle")
    assert problems, "the browser reports the 404 of the run and of its metrics"
    problems.clear()


def places(address):
    """The address of each kind of page, by its name, for a run that has all of them."""

    def ask(path):
        with urllib.request.urlopen(address + "api/" + path) as answer:
            return json.load(answer)

    run = next(run["id"] for run in ask("runs")["runs"] if run["before"] and run["after"] and run["curve"])
    shown = f"#/run/{run}"
    (step, group) = next(
        (g["step"], g) for g in ask(f"runs/{run}/groups")["groups"] if len(set(g["rewards"])) > 1
    )
    name, trajectory = (quote(text, safe="") for text in (group["id"], group["trajectories"][0]))
    return {
        "runs": "",
        "run": shown,
        "search": f"{shown}/trajectories?q=order",
        "groups": f"{shown}/groups?step={step}",
        "group": f"{shown}/group/{name}",
        "trajectory": f"{shown}/trajectory/{trajectory}",
        "tokens": f"{shown}/trajectory/{trajectory}?view=tokens&colour=probability",
        "settings": f"{shown}/settings",
        "compare": f"#/compare?a={run}%3Abefore&b={run}%3Aafter",
    }


@pytest.mark.parametrize("size", SIZES)
def test_axe_finds_no_fault_and_nothing_is_wider_than_the_screen(opened, page, served, faults, size):
    width, height = SIZES[size]
    page.set_viewport_size({"width": width, "height": height})
    for name, address in places(served[0]).items():
        page.goto("about:blank")  # so that nothing of the page before is looked at
        page.emulate_media(color_scheme="light", reduced_motion="reduce")
        opened(address)
        expect(page.get_by_role("heading").first).to_be_visible()
        expect(page.get_by_text("Loading …")).to_have_count(0)
        for scheme, rules in RULES[size]:
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            if PICTURES:
                kind = f"-{size}-{scheme}".removesuffix("-wide-light")
                page.screenshot(path=Path(PICTURES) / f"viewer-{name}{kind}.png")
            found = faults(rules)
            assert not found, f"{name}, {scheme}: {found}"
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name


def test_the_toggle_holds_against_the_system_s_colours(opened, page):
    page.emulate_media(color_scheme="light")
    opened()
    paper = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(paper)
    page.get_by_role("button", name="Dark colours").click()
    assert page.evaluate(paper) != light
    page.reload()
    assert page.evaluate(paper) != light
