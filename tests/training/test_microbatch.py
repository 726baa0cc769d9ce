"""How many units pass at once, and in what precision, when neither is chosen."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dpdm.config import load_config
from dpdm.data import PublicFacts
from dpdm.diffusion.objective import denoising_loss
from dpdm.privacy import per_unit_gradients
from dpdm.release.build import build_denoiser
from dpdm.release.precision import autocast_dtype
from dpdm.training import microbatch
from dpdm.training.microbatch import random_views, resolve_microbatch

CPU = torch.device("cpu")
SMALL = ["network.base_channels=8", "network.blocks=1", "training.batch_size=100"]


def units_for(
    *settings: str, name: str = "digits", size: int = 1000, side: int = 8, lanes: int = 1
) -> int:
    config = load_config(name, [*SMALL, *settings])
    denoiser = build_denoiser(config, (1, side, side), 10, None)
    return resolve_microbatch(config, denoiser, facts(size, side), CPU, lanes)


def facts(size: int = 1000, side: int = 8) -> PublicFacts:
    shape = (1, side, side)
    return SimpleNamespace(image_shape=shape, classes=tuple("0123456789"), public_size=size)  # type: ignore[return-value]


def test_a_number_that_is_given_is_taken():
    assert units_for("training.microbatch=7") == 7


def test_a_step_that_fits_is_one_pass_with_room_for_a_large_sample():
    assert units_for() == 128  # 100 + 2 sqrt(100 * 0.9), and up to a multiple of 16


def test_lanes_share_the_units_and_the_memory(monkeypatch):
    assert units_for("training.microbatch=7", lanes=2) == 4
    assert units_for(lanes=2) == 64  # 128 in two passes
    assert units_for(lanes=3) == 48
    monkeypatch.setattr(microbatch, "_CPU_BYTES", 30 * bytes_of_a_unit())
    assert 16 < units_for(lanes=2) * 2 <= units_for() + 16


def test_no_more_units_than_there_are():
    assert units_for(size=104) == 104


def test_a_step_that_does_not_fit_is_as_few_equal_passes_as_memory_allows(monkeypatch):
    whole, passes = units_for(), []
    for share in (1, 0.5, 0.25, 0.1):
        monkeypatch.setattr(microbatch, "_CPU_BYTES", share * 120 * bytes_of_a_unit())
        passes.append(round(whole / units_for()))
    assert passes == [1, 2, 4, 9]


def bytes_of_a_unit() -> int:
    config = load_config("digits", SMALL)
    denoiser = build_denoiser(config, (1, 8, 8), 10, None)
    views = random_views(config, denoiser, facts(), 1, CPU)
    gradient = sum(4 * p.numel() for p in denoiser.parameters())
    return gradient + microbatch._kept_bytes(denoiser, views)


def test_what_a_unit_takes_grows_with_its_views_and_pixels(monkeypatch):
    monkeypatch.setattr(microbatch, "_CPU_BYTES", 2.0**25)
    found = [
        units_for("training.batch_size=999"),
        units_for("training.batch_size=999", "views.count=16"),
        units_for("training.batch_size=999", side=16),
    ]
    assert found[0] > 2 * found[1] > 2
    assert found[0] > 2 * found[2] > 2


def test_memory_too_small_for_a_unit_still_passes_one(monkeypatch):
    monkeypatch.setattr(microbatch, "_CPU_BYTES", 1.0)
    assert units_for() == 1


def test_precision_is_bfloat16_only_where_the_device_computes_it(monkeypatch):
    assert autocast_dtype("float32", CPU) is None
    assert autocast_dtype("bfloat16", CPU) is torch.bfloat16
    for capabilities, expected in (({"avx512_bf16": True}, torch.bfloat16), ({"avx2": True}, None)):
        monkeypatch.setattr(
            torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False
        )
        assert autocast_dtype("auto", CPU) is expected
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert autocast_dtype("auto", CPU) is None


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_the_network_alone_runs_in_low_precision(precision):
    config = load_config("digits", SMALL)
    denoiser = build_denoiser(config, (1, 8, 8), 10, None)
    denoiser.precision, seen = precision, []
    denoiser.network.register_forward_hook(lambda *given: seen.append(given[2].dtype))
    views = random_views(config, denoiser, facts(), 3, CPU)
    losses, gradients = per_unit_gradients(denoiser, denoising_loss, views, config.views.count)
    assert set(seen) == {precision or torch.float32}
    assert {losses.dtype, *(g.dtype for g in gradients.values())} == {torch.float32}


def test_low_precision_moves_a_gradient_by_less_than_a_hundredth():
    config = load_config("digits", SMALL)
    torch.manual_seed(0)
    denoiser, found = build_denoiser(config, (1, 8, 8), 10, None), []
    for parameter in denoiser.parameters():  # some layers start at zero
        parameter.data += 0.05 * torch.randn_like(parameter)
    for precision in (None, torch.bfloat16):
        denoiser.precision = precision
        views = random_views(config, denoiser, facts(), 8, CPU)
        _, gradients = per_unit_gradients(denoiser, denoising_loss, views, config.views.count)
        found.append(torch.cat([g.flatten(1) for g in gradients.values()], 1))
    assert float((found[1] - found[0]).norm() / found[0].norm()) < 0.01
