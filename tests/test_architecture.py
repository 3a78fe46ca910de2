"""The structure that docs/architecture.md promises, read from the imports themselves."""

from __future__ import annotations

import graphlib
import re
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
WHERE = (ROOT / "docs" / "where-is-what.md").read_text(encoding="utf-8")


def test_no_file_of_the_host_is_in_a_circle_of_imports() -> None:
    graph = grimp.build_graph("grpo_host", exclude_type_checking_imports=False)
    imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    graphlib.TopologicalSorter(imported).prepare()  # raises CycleError, which names the circle


def test_each_question_of_where_is_what_is_answered_by_a_path_that_exists() -> None:
    rows = re.findall(r"^\| (.+\?) \| (.+) \|$", WHERE, flags=re.MULTILINE)
    assert len(rows) >= 25
    for question, answer in rows:
        paths = re.findall(r"`([^`]+)`", answer)
        assert paths, question
        missing = [path for path in paths if not (ROOT / path).exists()]
        assert not missing, question
