"""What cannot carry a promise per unit is refused by name, by type or by trying."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from dpdm.errors import RequestError
from dpdm.privacy.gradients import UnsupportedModuleError, per_unit_gradients, validate


def loss(module, x):
    return module(x).square().flatten(1).sum(1)


class Centred(nn.Module):
    """Subtracts the mean of the batch."""

    def __init__(self, width=4):
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, x):
        x = self.layer(x)
        return x - x.mean(0)


def refusal(call, *args, **kwargs):
    with pytest.raises(UnsupportedModuleError) as caught:
        call(*args, **kwargs)
    assert isinstance(caught.value, RequestError)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("call", [per_unit_gradients, validate])
@pytest.mark.parametrize("training", [True, False])
def test_every_batch_norm_is_named_with_what_to_do(call, training):
    module = nn.Sequential(
        nn.BatchNorm2d(3),
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.SyncBatchNorm(3)),
        nn.InstanceNorm2d(3, track_running_stats=True),
        nn.InstanceNorm2d(3),
    ).train(training)
    error = refusal(call, module, loss, (torch.randn(4, 3, 2, 2),), views=2)
    assert error.paths == ("0", "1.1", "2")
    for part in ("0 (BatchNorm2d)", "1.1 (SyncBatchNorm)", "2 (InstanceNorm2d)", "GroupNorm"):
        assert part in str(error)


def test_a_batch_norm_that_is_the_module_itself():
    error = refusal(validate, nn.BatchNorm1d(4), loss, (torch.randn(4, 4),), views=2)
    assert error.paths == ("",)
    assert "the module itself (BatchNorm1d)" in str(error)


@pytest.mark.parametrize(
    ("layer", "advice"),
    [
        (nn.Embedding(5, 4, max_norm=1.0), "max_norm=None"),
        (nn.Embedding(5, 4, scale_grad_by_freq=True), "scale_grad_by_freq=False"),
        (nn.LazyLinear(4), "call it once"),
    ],
)
def test_options_that_mix_units_are_refused(layer, advice):
    module = nn.Sequential(layer)
    inputs = (torch.zeros(4, 2, dtype=torch.int64),)
    assert advice in str(refusal(per_unit_gradients, module, loss, inputs, views=2))


def test_functional_batch_norm_is_refused_in_training():
    def normalised(module, x):
        return F.batch_norm(module(x), None, None, training=True).square().sum(1)

    error = refusal(per_unit_gradients, nn.Linear(4, 4), normalised, (torch.randn(4, 4),), views=2)
    assert "batch_norm" in str(error)


def test_validate_accepts_what_keeps_units_apart():
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.GroupNorm(2, 4),
        nn.Dropout(0.5),
        nn.InstanceNorm2d(4, affine=True),
        nn.Flatten(),
        nn.Linear(64, 3),
        nn.Softmax(dim=1),
    )
    for rows, views in ((6, 2), (4, 4), (3, 1), (1, 1)):
        validate(module, loss, (torch.randn(rows, 1, 4, 4),), views=views)


def test_a_batch_mean_is_found_by_its_path():
    module = nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"inner": Centred()})["inner"])
    error = refusal(validate, module, loss, (torch.randn(6, 4),), views=2)
    assert error.paths == ("1",)
    assert "1 (Centred)" in str(error)


def test_every_place_that_mixes_is_found():
    module = nn.Sequential(
        Centred(), nn.Tanh(), nn.Sequential(nn.Linear(4, 4), Centred()), nn.Linear(4, 4), Centred()
    )
    error = refusal(validate, module, loss, (torch.randn(6, 4),), views=2)
    assert error.paths == ("0", "2.1", "4")


def test_mixing_between_submodules_is_laid_to_the_module_around_them():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            x = self.first(x)
            return self.second(x / x.norm(dim=0))

    module = nn.Sequential(nn.Linear(4, 4), Around())
    assert refusal(validate, module, loss, (torch.randn(6, 4),), views=3).paths == ("1",)


def test_mixing_by_the_loss_is_laid_to_the_loss():
    def contrastive(module, x):
        z = module(x)
        return (z @ z.T).logsumexp(1)

    error = refusal(validate, nn.Linear(4, 4), contrastive, (torch.randn(6, 4),), views=2)
    assert error.paths == ()
    assert "the loss function itself" in str(error)


def test_mixing_hidden_behind_a_layer_that_starts_at_zero_is_found():
    last = nn.Linear(4, 4)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    module = nn.Sequential(nn.Linear(4, 4), Centred(), last)
    assert refusal(validate, module, loss, (torch.randn(6, 4),), views=2).paths == ("1",)


@pytest.mark.parametrize("direction", [1, -1])
def test_influence_of_the_next_or_the_previous_unit_alone_is_found(direction):
    class Neighbour(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            shifted = torch.zeros_like(x)
            if direction == 1:
                shifted[2:] = x[:-2]
            else:
                shifted[:-2] = x[2:]
            return self.layer(x + shifted)

    module = nn.Sequential(Neighbour())
    assert refusal(validate, module, loss, (torch.randn(8, 4),), views=2).paths == ("0",)


def test_mixing_is_found_with_a_single_unit_given():
    module = nn.Sequential(Centred())
    assert refusal(validate, module, loss, (torch.randn(3, 4),), views=3).paths == ("0",)


def test_mixing_is_found_under_dropout():
    module = nn.Sequential(nn.Dropout(0.5), Centred())
    assert refusal(validate, module, loss, (torch.randn(6, 4),), views=2).paths == ("1",)


def test_mixing_through_labels_is_found():
    class Balanced(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x, labels):
            counts = torch.bincount(labels, minlength=10).to(x)
            return self.layer(x) / counts[labels].unsqueeze(1)

    module = Balanced()
    inputs = (torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 1, 2]))
    error = refusal(validate, module, lambda m, x, y: m(x, y).square().sum(1), inputs, views=2)
    assert error.paths == ("",)


def test_a_buffer_that_keeps_the_data_is_found():
    class Remembering(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("average", torch.zeros(4))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            with torch.no_grad():
                self.calls += 1
                self.average.lerp_(x.mean(0), 0.1)
            return self.layer(x)

    module = nn.Sequential(Remembering())
    error = refusal(validate, module, loss, (torch.randn(6, 4),), views=2)
    assert error.paths == ("0",)
    assert "'average'" in str(error)
    assert "'calls'" not in str(error)


def test_validate_leaves_no_trace():
    module = nn.Sequential(
        nn.Linear(4, 4), nn.Dropout(0.5), nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    )
    state = {name: value.clone() for name, value in module.state_dict().items()}
    random = torch.get_rng_state()
    validate(module, loss, (torch.randn(6, 4, generator=torch.Generator()),), views=2)
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert all(p.grad is None for p in module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


def test_validate_leaves_no_trace_after_a_refusal():
    module = nn.Sequential(nn.Linear(4, 4), Centred())
    state = {name: value.clone() for name, value in module.state_dict().items()}
    refusal(validate, module, loss, (torch.randn(6, 4),), views=2)
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())


@pytest.mark.parametrize("views", [0, 4])
def test_validate_refuses_wrong_requests(views):
    with pytest.raises(RequestError, match="views"):
        validate(nn.Linear(4, 4), loss, (torch.randn(6, 4),), views=views)


def test_per_unit_gradients_refuse_a_module_that_mixes_even_without_validate():
    module = nn.Sequential(nn.Linear(4, 4), Centred())
    error = refusal(per_unit_gradients, module, loss, (torch.randn(6, 4),), views=2)
    assert error.paths == ("1",)


def test_a_layer_without_a_rule_that_needs_the_whole_batch_is_refused_by_name():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.LSTM(4, 4, batch_first=True)

        def forward(self, x):
            return self.cell(x.view(6, 2, 2).repeat(1, 1, 2))[0]

    module = nn.Sequential(nn.Linear(4, 4), Rows())
    error = refusal(per_unit_gradients, module, loss, (torch.randn(6, 4),), views=2)
    assert error.paths == ("1.cell",)
    assert "lstm" in str(error)


def test_reentrant_checkpoints_are_refused_with_what_to_do():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return checkpoint(self.second, self.first(x), use_reentrant=True)

    error = refusal(per_unit_gradients, Checkpointed(), loss, (torch.randn(6, 4),), views=2)
    assert "use_reentrant=False" in str(error)
