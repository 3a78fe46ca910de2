"""How ids are drawn from log-probabilities."""

from __future__ import annotations

import pytest

from grpo_sdk import Sampling

torch = pytest.importorskip("torch")

from grpo_backends.sampling import draw, invert, processed_logprobs  # noqa: E402 - needs torch

pytestmark = pytest.mark.model


def test_ids_are_drawn_as_often_as_their_probability_says() -> None:
    probabilities = torch.tensor([0.5, 0.25, 0.2, 0.05, 0.0])
    uniform = torch.rand(20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ids = invert(probabilities.log().expand(20_000, -1), uniform)
    shares = torch.bincount(ids, minlength=5) / 20_000
    assert (shares - probabilities).abs().max() < 0.015


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_an_id_of_probability_zero_is_never_drawn(uniform: float) -> None:
    logprobs = torch.tensor([[0.0, 0.3, 0.0, 0.7, 0.0]]).log()
    assert invert(logprobs, torch.tensor([uniform], dtype=torch.float64)).item() in (1, 3)


def test_each_row_has_its_own_settings() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).repeat(4, 1)
    settings = [
        Sampling(),
        Sampling(temperature=0.5),
        Sampling(top_k=2),
        Sampling(top_p=0.7),
    ]
    rows = processed_logprobs(logits, settings).exp()
    assert torch.allclose(rows[0], torch.tensor([3.0, 2.0, 1.0, 0.0]).softmax(0))
    assert torch.allclose(rows[1], torch.tensor([6.0, 4.0, 2.0, 0.0]).softmax(0))
    assert (rows[2] > 0).tolist() == [True, True, False, False]
    assert (rows[3] > 0).tolist() == [True, True, False, False]  # 0.64 alone is less than 0.7
    assert torch.allclose(rows.sum(1), torch.ones(4))


def test_the_likeliest_id_stays_whatever_top_p() -> None:
    rows = processed_logprobs(torch.tensor([[1.0, 5.0, 2.0]]), [Sampling(top_p=0.01)])
    assert rows.exp().tolist() == [[0.0, 1.0, 0.0]]


def test_greedy_takes_the_likeliest_with_its_logprob_at_temperature_one() -> None:
    logits = torch.tensor([[1.0, 5.0, 2.0]])
    greedy = [Sampling(temperature=0, top_k=1, top_p=0.1)]
    logprobs = processed_logprobs(logits, greedy)
    assert draw(logprobs, greedy, [torch.Generator()]).item() == 1
    assert torch.allclose(logprobs, logits.log_softmax(-1))


def test_vllms_replaced_sampler_draws_from_what_it_reports() -> None:
    pytest.importorskip("vllm")
    from grpo_backends.vllm_cpu import sample

    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(1))
    top_k, top_p = torch.tensor([5, 50, 50]), torch.tensor([1.0, 0.5, 1.0])
    for seed in range(50):
        generators = {row: torch.Generator().manual_seed(seed + row) for row in range(3)}
        ids, logprobs = sample(torch.Generator(), logits.clone(), generators, top_k, top_p)
        assert torch.isfinite(logprobs.gather(1, ids.unsqueeze(1))).all()
    assert torch.isfinite(logprobs[0]).sum() == 5
