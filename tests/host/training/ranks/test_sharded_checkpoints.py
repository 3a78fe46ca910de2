"""The optimizer's state, by the names of parameters and by their numbers."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from grpo_host.training.ranks import sharded_checkpoints
from grpo_host.training.ranks.sharded_checkpoints import NAMED, NUMBERED, _complete

pytestmark = pytest.mark.torch


@pytest.fixture
def trained():
    """A model and its optimizer after a step; the optimizer has its parameters in an order of its own."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    first, second = model
    groups = [{"params": [second.weight, first.weight]}, {"params": [first.bias, second.bias], "lr": 0.5}]
    optimizer = torch.optim.AdamW(groups, lr=0.1)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


@pytest.fixture
def shared(monkeypatch):
    monkeypatch.setattr(sharded_checkpoints, "is_sharded", lambda _: True)


def moments(optimizer):
    return [
        (group["lr"], *optimizer.state[parameter]["exp_avg"].flatten().tolist())
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]


def test_who_shares_no_model_takes_the_state_of_those_who_do(trained, tmp_path):
    import torch
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

    model, optimizer = trained
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    torch.save(get_optimizer_state_dict(model, optimizer, options=options), tmp_path / NAMED)
    expected = moments(optimizer)

    _complete(tmp_path, model, optimizer)

    optimizer.state.clear()
    optimizer.param_groups[1]["lr"] = 0.0
    optimizer.load_state_dict(torch.load(tmp_path / NUMBERED))
    assert moments(optimizer) == expected


def test_who_shares_a_model_takes_the_state_of_those_who_do_not(trained, shared, tmp_path):
    import torch
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    model, optimizer = trained
    torch.save(optimizer.state_dict(), tmp_path / NUMBERED)
    expected = moments(optimizer)

    _complete(tmp_path, model, optimizer)

    optimizer.state.clear()
    named = torch.load(tmp_path / NAMED)
    assert named["param_groups"][0]["params"] == ["1.weight", "0.weight"]
    set_optimizer_state_dict(model, optimizer, named, options=StateDictOptions(full_state_dict=True))
    assert moments(optimizer) == expected


def test_what_is_there_stays_as_it_is(trained, tmp_path):
    model, optimizer = trained
    (tmp_path / NUMBERED).write_text("mine")
    (tmp_path / NAMED).write_text("not read")
    _complete(tmp_path, model, optimizer)
    assert (tmp_path / NUMBERED).read_text() == "mine"
