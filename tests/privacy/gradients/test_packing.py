"""Clipping of packed gradients is that of the gradients as they are."""

from __future__ import annotations

import pytest
import torch

from dpdm.privacy.gradients import clip_and_sum, packing

UNITS = 5


def some_gradients() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(UNITS, *shape, generator=generator)

    return {
        "number": normal(),
        "large": normal(64, 65),
        "bias": normal(7),
        "turned": normal(16, 3, 3, 32).permute(0, 1, 4, 2, 3),
        "small and turned": normal(4, 3, 5).permute(0, 3, 1, 2),
        "copied": normal(70, 60)[:1].expand(UNITS, 70, 60),
        "sliced": normal(70, 130)[:, :, ::2],
    }


@pytest.mark.parametrize("spoilt", ["turned", "bias", None])
def test_sums_norms_and_names_are_the_same(monkeypatch, spoilt):
    gradients = some_gradients()
    if spoilt:
        gradients[spoilt][2].fill_(float("nan"))
    expected = clip_and_sum(gradients, 1.5)
    monkeypatch.setattr(packing, "packs", lambda _: True)
    found = clip_and_sum(gradients, 1.5)
    assert list(found.sums) == list(gradients)
    torch.testing.assert_close(found.norms, expected.norms, equal_nan=True, rtol=1e-12, atol=0)
    assert torch.equal(found.nonfinite, expected.nonfinite)
    for name, gradient in gradients.items():
        assert found.sums[name].shape == gradient.shape[1:]
        assert found.sums[name].is_contiguous()
        torch.testing.assert_close(found.sums[name], expected.sums[name], rtol=1e-12, atol=1e-12)


def test_small_ones_become_one_and_large_ones_are_not_copied(monkeypatch):
    monkeypatch.setattr(packing, "packs", lambda _: True)
    gradients = some_gradients()
    parts = packing.Packed(gradients).parts.values()
    places = {part.data_ptr() for part in parts}
    assert len(parts) == 5
    assert {gradients["large"].data_ptr(), gradients["turned"].data_ptr()} <= places
