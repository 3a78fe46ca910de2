from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_sdk.testing import ToolContract
from grpo_sdk.tools import ToolLike
from grpo_tools.knowledge_base import knowledge_base_tool

RETURNS = "# Returns\n\nYou can return an item within 30 days.\n\nRefunds are paid within five business days."
SHIPPING = "We ship with DHL. Delivery takes three days in Europe."


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("documents")
    (path / "returns.md").write_text(RETURNS)
    (path / "more").mkdir()
    (path / "more" / "shipping_times.txt").write_text(SHIPPING)
    (path / "ignored.bin").write_bytes(b"\xff\x00")
    return path


class TestKnowledgeBase(ToolContract):
    arguments: ClassVar = {"query": "refund"}
    invalid_arguments = ({}, {"query": 7})

    @pytest.fixture(autouse=True)
    def _documents(self, folder: Path) -> None:
        self.folder = folder

    def make(self) -> ToolLike:
        return knowledge_base_tool(path=str(self.folder))


def test_the_best_passage_comes_first_with_its_title(folder):
    search = knowledge_base_tool(path=str(folder))
    assert search("when are refunds paid?").startswith("[1] Returns: You can return an item")
    assert search("delivery by DHL").startswith("[1] shipping times: We ship with DHL.")


def test_words_match_in_other_forms(folder):
    assert "[1] Returns" in knowledge_base_tool(path=str(folder))("refunded returning")


def test_no_more_than_top_k_passages_are_returned(folder):
    assert knowledge_base_tool(path=str(folder), top_k=1)("days").count("[") == 1


def test_snippets_are_cut_around_the_match(tmp_path):
    (tmp_path / "long.txt").write_text("padding " * 60 + "needle in the hay " + "padding " * 30)
    found = knowledge_base_tool(path=str(tmp_path), snippet_words=8)("needle")
    assert "needle" in found
    assert len(found.split()) < 14


def test_a_jsonl_file_is_searched(tmp_path):
    file = tmp_path / "faq.jsonl"
    entries = [
        {"id": 1, "title": "Hours", "text": "Open from nine to five."},
        {"id": "b", "text": "By card."},
    ]
    file.write_text("\n".join(map(json.dumps, entries)) + "\n\n")
    search = knowledge_base_tool(path=str(file))
    assert search("open hours") == "[1] Hours: Open from nine to five."
    assert search("card") == "[1] b: By card."


def test_nothing_found_is_said(folder):
    assert knowledge_base_tool(path=str(folder))("xylophone") == "Nothing found for: xylophone"


@given(st.text(max_size=60))
def test_no_query_breaks_the_search(folder, query):
    assert knowledge_base_tool(path=str(folder))(query)


@pytest.mark.parametrize(
    "query", ['"', "NEAR(a b", "title:x", "a AND OR NOT", "x*", "^a", "-a", "{a b}: c", "';--"]
)
def test_query_syntax_is_only_text(folder, query):
    assert knowledge_base_tool(path=str(folder))(query)


def test_many_threads_share_one_index(folder):
    search = knowledge_base_tool(path=str(folder))
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(search, ["refund"] * 200))) == 1


def test_a_changed_document_is_read_again(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("The code is red.")
    assert "red" in knowledge_base_tool(path=str(tmp_path))("code")
    file.write_text("The code is blue.")
    os.utime(file, ns=(2, file.stat().st_mtime_ns + 1_000_000))
    assert "blue" in knowledge_base_tool(path=str(tmp_path))("code")


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"knowledge_base: nothing at /.*/absent; path is a folder"):
        knowledge_base_tool(path=str(tmp_path / "absent"))


def test_a_folder_without_documents_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no \.md or \.txt file in the folder"):
        knowledge_base_tool(path=str(tmp_path))


def test_empty_documents_are_refused(tmp_path):
    (tmp_path / "a.md").write_text("\n\n")
    with pytest.raises(ValueError, match="are empty"):
        knowledge_base_tool(path=str(tmp_path))


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", r"faq\.jsonl:2: not JSON"), ('{"title": "x"}', r"faq\.jsonl:2: a line is"), ("[]", "a line is")],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, line, message):
    (tmp_path / "faq.jsonl").write_text('{"text": "fine"}\n' + line)
    with pytest.raises(ValueError, match=message):
        knowledge_base_tool(path=str(tmp_path / "faq.jsonl"))


def test_other_kinds_of_files_are_refused(tmp_path):
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(ValueError, match="neither a folder nor"):
        knowledge_base_tool(path=str(tmp_path / "a.pdf"))


def test_text_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match=r"a\.txt is not UTF-8 text"):
        knowledge_base_tool(path=str(tmp_path))


def test_options_out_of_range_are_refused(folder):
    with pytest.raises(ValueError, match="top_k is 0"):
        knowledge_base_tool(path=str(folder), top_k=0)
