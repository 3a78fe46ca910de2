"""The playground of ``/ui`` in Chromium, what a key without the scope admin sees, and ``/docs``."""

from __future__ import annotations

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from grpo_host.config.load import load_config
from grpo_host.dialogues import read_demonstrations
from grpo_host.plugins import load_plugins
from grpo_host.serving.access.keys import KeyStore
from grpo_host.serving.app import create_app
from grpo_host.serving.settings import ServerSettings
from grpo_host.storage.database import make_engine
from grpo_host.storage.migrations import migrate
from grpo_sdk.hooks import hookimpl
from grpo_sdk.messages import assistant, tool_call
from grpo_sdk.testing import ScriptedBackend

pytestmark = pytest.mark.slow

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect


def _answer(messages, tools):
    said = messages[-1]["content"]
    if messages[-1]["role"] == "tool":
        return f"It is {said}."
    if said.startswith("calculate ") and tools:
        return assistant("", [tool_call("calculator", json.dumps({"expression": said.split()[1]}), "call_1")])
    return f"You said: {said}"


class TalkingBackend(ScriptedBackend):
    def __init__(self, model):
        super().__init__(model, script=_answer)


class Backends:
    @hookimpl
    def grpo_backends(self):
        return {"talking": TalkingBackend}


@pytest.fixture(scope="module")
def served(tmp_path_factory, browser, listening):
    """The address of a server with the models desk and tiny, and a key that may chat."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "agent.yaml").write_text(
        "name: desk\nmodel: {name: tiny}\nbackend: talking\nagent: {tools: [calculator]}\n"
        f"environment: support_desk\nrewards: [length]\noutput: {folder / 'runs'}\n"
    )
    registry = load_plugins()
    registry.register(Backends(), "test-backends")
    loaded = load_config(folder / "agent.yaml")
    settings = ServerSettings.of(loaded, state=folder / "state")

    async def key():
        engine = make_engine(settings.database())
        await migrate(engine)
        _, token = await KeyStore(engine).create("person", ["chat"])
        await engine.dispose()
        return token

    with ThreadPoolExecutor(1) as thread:  # Playwright's loop runs in this one
        token = thread.submit(asyncio.run, key()).result()
    with listening(create_app(settings, registry, loaded=loaded)) as address:
        yield address + "ui/", token


@pytest.fixture
def opened(page, served, problems):
    """The playground, as somebody sees it who gives a key that may only chat."""
    address, token = served
    page.goto(address)
    page.get_by_label("Key").fill(token)
    page.get_by_role("button", name="Use it").click()
    expect(page.get_by_role("heading", name="Playground")).to_be_visible()
    expect(page.locator(".lane select")).to_have_count(2)
    page.wait_for_load_state("networkidle")
    assert problems, "the browser reports that runs are refused"
    problems.clear()
    return page


def ask(page, text):
    page.get_by_label("What you say").fill(text)
    page.keyboard.press("Enter")


def test_a_key_that_may_only_chat_is_shown_no_runs(opened):
    links = opened.get_by_role("navigation", name="Pages").get_by_role("link")
    expect(links).to_have_text(["Playground", "Conversations"])


def test_two_models_answer_side_by_side_with_the_tools_that_they_called(opened):
    ask(opened, "calculate 6*7")
    lanes = opened.locator(".lane")
    for lane in (lanes.nth(0), lanes.nth(1)):
        expect(lane.locator("details.call")).to_contain_text("calculator")
        expect(lane.get_by_text("It is 42.")).to_be_visible()
    ask(opened, "thanks")
    expect(opened.get_by_text("You said: thanks")).to_have_count(2)
    expect(opened.get_by_text("It is 42.")).to_have_count(2)


def test_a_correction_becomes_a_demonstration_that_a_warm_start_reads(opened, faults, tmp_path):
    ask(opened, "hello")
    first, second = opened.locator(".lane").nth(0), opened.locator(".lane").nth(1)
    first.get_by_role("button", name="Bad answer").click()
    expect(first.get_by_role("button", name="Bad answer")).to_have_attribute("aria-pressed", "true")
    second.get_by_role("button", name="Correct").click()
    second.get_by_label("What should have been said").fill("Good morning!")
    assert not faults()
    second.get_by_role("button", name="Keep it").click()
    expect(second.locator(".correction")).to_contain_text("Good morning!")
    second.get_by_role("link", name="Open").click()
    expect(opened.get_by_role("heading", name="Conversation")).to_be_visible()
    expect(opened.locator(".correction")).to_contain_text("Good morning!")
    assert not faults()
    with opened.expect_download() as download:
        opened.get_by_role("button", name="Save the file").click()
    download.value.save_as(tmp_path / "demonstrations.jsonl")
    [found] = read_demonstrations(tmp_path / "demonstrations.jsonl")
    assert [message["content"] for message in found.messages] == ["hello", "Good morning!"]


def test_one_s_conversations_are_listed_by_their_first_words_and_deleted(opened):
    ask(opened, "delete me")
    expect(opened.get_by_text("You said: delete me")).to_have_count(2)
    opened.get_by_role("link", name="Conversations", exact=True).click()
    rows = opened.get_by_role("link", name="delete me")
    expect(rows).to_have_count(2)
    rows.first.click()
    opened.on("dialog", lambda dialog: dialog.accept())
    opened.get_by_role("button", name="Delete").click()
    expect(opened).to_have_url(re.compile("#/conversations"))
    expect(rows).to_have_count(1)


def test_a_lane_that_is_closed_leaves_the_others_conversation_and_a_new_one_waits(opened):
    ask(opened, "hello")
    lanes = opened.locator(".lane")
    expect(opened.get_by_text("You said: hello")).to_have_count(2)
    kept = lanes.nth(1).get_by_role("combobox").input_value()
    lanes.nth(0).get_by_role("button", name="Close").click()
    expect(lanes).to_have_count(1)
    assert lanes.get_by_role("combobox").input_value() == kept
    expect(lanes.get_by_text("You said: hello")).to_be_visible()
    opened.get_by_role("button", name="Add a model").click()
    expect(lanes).to_have_count(2)
    ask(opened, "again")
    expect(opened.get_by_text("You said: again")).to_have_count(2)
    expect(opened.get_by_text("You said: hello")).to_have_count(1)


@pytest.mark.parametrize("width", [1280, 390])
def test_docs_run_their_example_with_a_key(page, served, width):
    address, token = served
    page.set_viewport_size({"width": width, "height": 844})
    page.goto(address.removesuffix("ui/") + "docs")
    assert page.locator(".opblock-tag").first.inner_text().startswith("chat"), "what is needed first"
    page.get_by_role("button", name="Authorize").click()
    dialog = page.locator(".dialog-ux")
    dialog.locator("input").fill(token)
    dialog.get_by_role("button", name="Apply credentials").click()
    dialog.get_by_role("button", name="Close").last.click()
    chat = page.locator("#operations-chat-post_api_chat")
    chat.locator(".opblock-summary-control").click()
    chat.get_by_role("button", name="Execute").click()
    expect(chat.locator(".live-responses-table")).to_contain_text("You said: Hello")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
