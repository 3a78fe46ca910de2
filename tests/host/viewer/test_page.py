"""The page that ``grpo-host report --html`` writes."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from grpo_host.runs.run import Run
from grpo_host.viewer.page import report_page

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(2)>"


class Tags(HTMLParser):
    """The tags of a page, with all their attributes' values."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.values: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.add(tag)
        self.values += [value or "" for _, value in attrs]


@pytest.fixture
def page(run):
    report = run.read_report()
    for when, reward in (("before", 0.1), ("after", None)):
        said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": f"{when} {SCRIPT}"}]
        report[when]["conversations"] = [
            {"task": SCRIPT, "reward": reward, "success": None, "messages": said}
        ]
    run.write_json(run.report, report)
    for step in (3, 4, 5):
        run.append_metrics({"step": step, "reward": 0.9, "rollouts/cut": 0.9})
    return report_page(Run(run.path))


def test_the_page_has_curves_measurements_diagnosis_conversations_and_settings(page) -> None:
    for text in (
        "<svg",
        "0.800 to 1.000",
        "<strong>Step 3:</strong> 90% of the replies were cut",
        "Raise sampling",
    ):
        assert text in page
    assert "before: reward 0.10" in page
    assert "after: no reward" in page
    assert "training.learning_rate<td>0.1" in page


def test_what_a_model_wrote_is_text_and_nothing_comes_from_elsewhere(page) -> None:
    found = Tags(page)
    assert "before &lt;script&gt;" in page
    assert not found.tags & {"script", "img", "link", "iframe"}
    assert not any("//" in value for value in found.values)
    assert "default-src 'none'" in page


def test_a_run_that_has_just_begun_has_a_page(make_run) -> None:
    assert "step 0 of 4" in report_page(Run(make_run().path))


@pytest.mark.slow
def test_a_phone_shows_the_page_without_scrolling_sideways(page, browser) -> None:
    with browser.new_page(viewport={"width": 390, "height": 844}) as tab:
        tab.set_content(page)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
