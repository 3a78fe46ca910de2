from __future__ import annotations

import pytest

from grpo_sdk.weights import VisibleUpdate, rounded, rounded_weights, stored_wider

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.model

NARROW = [torch.bfloat16, torch.float16]


def values(count=4096, seed=0):
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) * 0.05


@pytest.mark.parametrize("dtype", NARROW)
def test_what_the_dtype_holds_stays_as_it_is(dtype):
    held = torch.cat([values().to(dtype).float(), torch.tensor([0.0, -0.0, 1e-7, torch.inf, -torch.inf])])
    held = held.to(dtype).float()
    assert torch.equal(rounded(held, dtype, "w").float(), held)
    assert rounded(torch.tensor([torch.nan]), dtype, "w").isnan().all()


@pytest.mark.parametrize("dtype", NARROW)
def test_every_value_goes_to_one_of_its_two_neighbours(dtype):
    exact = values()
    gap = (rounded(exact, dtype, "w").float() - exact).abs() / exact.abs()
    assert gap.max() < 2 * torch.finfo(dtype).eps
    assert (rounded(exact, dtype, "w") != exact.to(dtype)).any()


@pytest.mark.parametrize("dtype", NARROW)
def test_a_change_far_below_the_grid_is_kept_on_average(dtype):
    before = values(1 << 16).to(dtype).float()
    change = torch.full_like(before, 2e-6).copysign(before)
    assert torch.equal((before + change).to(dtype).float()[before.abs() > 0.01], before[before.abs() > 0.01])
    made = rounded(before + change, dtype, "w").float() - before
    assert float((made * change).sum() / change.square().sum()) == pytest.approx(1, abs=0.25)


def test_rounding_hangs_on_the_name_alone():
    exact = values()
    first, again, other = (rounded(exact.clone(), torch.bfloat16, name) for name in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_tensor_that_is_not_contiguous_is_rounded_like_its_copy():
    exact = values().view(64, 64).t()
    assert torch.equal(rounded(exact, torch.bfloat16, "a"), rounded(exact.clone(), torch.bfloat16, "a"))


def test_the_tensor_itself_is_left_alone():
    exact = values()
    before = exact.clone()
    rounded(exact, torch.bfloat16, "a")
    assert torch.equal(exact, before)


def test_wider_dtypes_and_whole_numbers_are_not_rounded():
    narrow, whole = values().bfloat16(), torch.arange(3)
    assert torch.equal(rounded(narrow, torch.float32, "a"), narrow.float())
    assert torch.equal(rounded(whole, torch.bfloat16, "a"), whole)


def test_weights_that_are_tied_stay_equal():
    shared = values().view(64, 64)
    one, two = (tensor for _, tensor in rounded_weights([("a", shared), ("b", shared)], torch.bfloat16))
    assert torch.equal(one, two)


def test_a_visible_update_is_the_share_of_the_change_that_was_made():
    before = torch.zeros(64, 8)
    counted = VisibleUpdate()
    assert counted.share is None
    counted.add(before, before + 2, before + 1)
    assert counted.share == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("stored", "wanted", "wider"),
    [("float32", "bfloat16", True), ("float32", "float32", False), ("bfloat16", "bfloat16", False)],
)
def test_files_are_wider_than_what_is_wanted(tmp_path, stored, wanted, wider):
    from safetensors.torch import save_file

    save_file({"w": values().to(getattr(torch, stored))}, tmp_path / "model.safetensors")
    assert stored_wider(tmp_path, getattr(torch, wanted)) is wider
