"""Which names a request may ask for."""

import pytest

from grpo_host.openai_protocol.errors import ApiError
from grpo_host.plugins.use import ModelConfig
from grpo_host.runs.directory import RunDirectory
from grpo_host.serving.models import catalogue
from grpo_host.serving.models.catalogue import Catalogue
from grpo_host.serving.settings import ServerSettings

RUN = "20260101-000000-abcd"


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "LOOK_SECONDS", 0.0)
    return tmp_path / "runs"


def make(runs, *, local=True, run=None):
    settings = ServerSettings.of(agent="desk", runs=runs)
    return Catalogue(settings, ModelConfig(name="tiny"), run=run, runs=local)


def finish_run(runs, name=RUN):
    path = runs / "desk" / name / "adapter"
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text("{}")
    (path.parent / "agent.yaml").write_text("model: tiny\n")
    return path


def test_a_finished_run_can_be_asked_for_without_a_restart(runs):
    models = make(runs)
    assert [entry.id for entry in models] == ["desk", "tiny"]
    path = finish_run(runs)
    assert models.find(f"desk/{RUN}").adapter == path
    assert [entry.id for entry in models] == ["desk", "tiny", f"desk/{RUN}"]


def test_a_run_without_an_adapter_is_none_of_them(runs):
    (runs / "desk" / RUN / "checkpoints").mkdir(parents=True)
    assert [entry.id for entry in make(runs)] == ["desk", "tiny"]


def test_a_model_behind_http_has_no_runs(runs):
    finish_run(runs)
    assert [entry.id for entry in make(runs, local=False)] == ["desk", "tiny"]


def test_the_agents_own_name_stands_for_the_run_that_is_served(runs):
    path = finish_run(runs)
    found = make(runs, run=RunDirectory(path.parent)).find(None)
    assert (found.adapter, found.run) == (path, path.parent)


def test_a_run_is_served_on_the_model_that_it_was_trained_on(runs):
    path = finish_run(runs)
    (path.parent / "agent.yaml").write_text('model: {name: large, adapter: null}\nrewards: ["${KEY}"]\n')
    models = make(runs)
    assert models.find(f"desk/{RUN}").model == "large"
    assert models.find(None).model == "tiny"
    assert make(runs, run=RunDirectory(path.parent)).find(None).model == "large"


def test_a_model_that_a_run_trained_whole_is_served_as_it_is(runs):
    whole = runs / "desk" / RUN / "model"
    whole.mkdir(parents=True)
    found = make(runs, run=RunDirectory(whole.parent)).find(None)
    assert (found.model, found.adapter) == (str(whole), None)


@pytest.mark.parametrize(
    "name", ["../../etc", "desk/../other", f"desk/{RUN}/..", "/etc/passwd", "other/x", ""]
)
def test_a_name_is_never_a_path(runs, name):
    finish_run(runs)
    with pytest.raises(ApiError) as caught:
        make(runs).find(name)
    assert caught.value.status == 404
