"""`grpo-host export`: which run it takes, and what it does with it."""

from __future__ import annotations

import pytest

from grpo_host.cli import main
from grpo_host.cli.export import find_run
from grpo_host.export import directory, hub
from grpo_sdk.errors import RunError

AGENT = "name: desk\nmodel: m\nenvironment: e\nrewards: [r]\noutput: elsewhere\n"


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def make(path, trained="adapter"):
        run = tmp_path / path
        (run / trained).mkdir(parents=True)
        (run / "agent.yaml").write_text(AGENT)
        return run

    return make


def test_the_latest_is_the_last_of_all_agents_that_has_trained_something(make):
    make("runs/desk/20260101-000000-aaaa")
    whole = make("runs/shop/20260103-000000-cccc", "model")
    make("runs/shop/20260104-000000-dddd", "checkpoints")
    assert find_run("latest", None).path.name == whole.name


def test_a_run_is_found_by_its_id_and_by_its_path(make):
    run = make("runs/desk/20260101-000000-aaaa")
    make("runs/shop/20260102-000000-bbbb")
    assert find_run(run.name, None).path.resolve() == run
    assert find_run(str(run), None).path == run


def test_with_an_agent_only_its_runs_are_looked_at(make, tmp_path):
    make("runs/desk/20260102-000000-bbbb")
    run = make("elsewhere/desk/20260101-000000-aaaa")
    (tmp_path / "agent.yaml").write_text(AGENT)
    assert find_run("latest", tmp_path / "agent.yaml").path.resolve() == run


@pytest.mark.parametrize("which", ["latest", "20260101-000000-aaaa"])
def test_a_run_that_is_not_there_is_an_error_that_says_how_to_name_one(make, tmp_path, which):
    make("elsewhere/desk/20260101-000000-aaaa")
    with pytest.raises(
        RunError, match=rf"no run {which} in {tmp_path}/runs\. Give a run's directory, or --agent"
    ):
        find_run(which, None)


@pytest.fixture
def steps(monkeypatch, tmp_path):
    """Stands in for writing and uploading; tells in which order they were asked for."""
    done = []

    def note(name, result):
        return lambda *given, **options: done.append((name, *map(str, given[-1:]), options)) or result

    monkeypatch.setattr(directory, "export_run", note("export", tmp_path / "out"))
    monkeypatch.setattr(hub, "make_repository", note("make", "https://hub/me/desk"))
    monkeypatch.setattr(hub, "upload", note("upload", None))
    return done


def test_the_directory_is_printed(make, steps, capsys, tmp_path):
    make("runs/desk/20260101-000000-aaaa")
    assert main(["export", "latest", "--format", "adapter", "--out", "there"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    [(name, _, options)] = steps
    assert (name, options["format"], str(options["out"])) == ("export", "adapter", "there")


def test_a_repository_is_made_before_the_work_and_filled_after_it(make, steps, capsys):
    make("runs/desk/20260101-000000-aaaa")
    assert main(["export", "latest", "--push", "me/desk"]) == 0
    assert [name for name, *_ in steps] == ["make", "export", "upload"]
    assert "uploaded to https://hub/me/desk" in capsys.readouterr().err
