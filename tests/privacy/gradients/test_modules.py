"""Modules written by others: whatever way a parameter takes, its gradient is right."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from dpdm.privacy.gradients import per_unit_gradients


def test_tied_weights_add_up(oracle):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode = nn.Linear(4, 3)
            self.decode = nn.Linear(3, 4)
            self.decode.weight = nn.Parameter(torch.randn(4, 3))
            self.table = nn.Embedding(5, 4)
            self.head = nn.Linear(4, 5)
            self.head.weight = self.table.weight

        def forward(self, x):
            h = self.decode(torch.tanh(self.encode(self.table(x))))
            return self.head(h)

    gradients = oracle.check(Tied(), torch.randint(5, (6, 2)), views=2)
    assert "table.weight" in gradients
    assert "head.weight" not in gradients


def test_a_weight_used_transposed_adds_up(oracle):
    class Autoencoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return F.linear(torch.tanh(self.layer(x)), self.layer.weight.t())

    oracle.check(Autoencoder(), torch.randn(6, 4), views=2)


def test_a_module_used_several_times_adds_up(oracle):
    class Repeated(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 3, padding=1)
            self.norm = nn.GroupNorm(1, 3)

        def forward(self, x):
            for _ in range(3):
                x = torch.tanh(self.norm(self.layer(x)))
            return x

    oracle.check(Repeated(), torch.randn(6, 3, 5, 5), views=2)


def test_branches_that_share_a_layer(oracle):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.left, self.right = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            left, right = self.left(self.shared(x)), self.right(self.shared(x.sin()))
            return left * right + left

    oracle.check(Branches(), torch.randn(6, 4), views=3)


class Direct(nn.Module):
    """Parameters used without a layer: added, multiplied, concatenated, expanded, looked up."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 4))
        self.register_tokens = nn.Parameter(torch.randn(2, 4))
        self.positions = nn.Parameter(torch.randn(1, 8, 4))
        self.table = nn.Embedding(8, 4)
        self.scale = nn.Parameter(torch.randn(4))
        self.temperature = nn.Parameter(torch.tensor(1.3))
        self.weight = nn.Parameter(torch.randn(4, 3))
        self.mixing = nn.Parameter(torch.randn(8, 8))
        self.bias = nn.Parameter(torch.randn(3))

    def forward(self, x):
        tokens = self.token.expand(len(x), -1, -1)
        extra = self.register_tokens.unsqueeze(0).repeat(len(x), 1, 1)
        x = torch.cat([tokens, extra, x], dim=1) + self.positions
        x = x + self.table(torch.arange(8, device=x.device))
        x = x * self.scale
        x = x + 1.0
        x += self.scale
        x = torch.einsum("st,nte->nse", self.mixing.softmax(-1), x)
        x = self.temperature * x @ self.weight + self.bias
        return (1.0 - self.bias / 3) * x.tanh() @ (self.weight.t() / self.weight.norm())


@pytest.mark.parametrize(("u", "v"), [(1, 1), (1, 3), (2, 1), (3, 2), (4, 2), (8, 1), (2, 4)])
def test_parameters_used_directly(oracle, u, v):
    oracle.check(Direct(), torch.randn(u * v, 5, 4), views=v)


@pytest.mark.parametrize(
    "wrap",
    [parametrizations.weight_norm, parametrizations.spectral_norm, parametrizations.orthogonal],
)
def test_reparametrised_weights(oracle, wrap):
    module = nn.Sequential(wrap(nn.Linear(4, 4)), nn.Tanh(), nn.Linear(4, 2)).eval()
    oracle.check(module, torch.randn(6, 4), views=2)


def test_standardised_weights(oracle):
    class Standardised(nn.Conv2d):
        def forward(self, x):
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            weight = weight / (weight.flatten(1).std(1).view(-1, 1, 1, 1) + 1e-5)
            return F.conv2d(x, weight, self.bias, padding=1)

    oracle.check(Standardised(3, 4, 3), torch.randn(6, 3, 5, 5), views=2)


def test_low_rank_adaptation_of_a_frozen_layer(oracle):
    class Adapted(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = nn.Linear(4, 3).requires_grad_(False)
            self.down = nn.Parameter(torch.randn(2, 4))
            self.up = nn.Parameter(torch.randn(3, 2))

        def forward(self, x):
            return F.linear(x, self.base.weight + self.up @ self.down, self.base.bias)

    gradients = oracle.check(Adapted(), torch.randn(6, 4), views=2)
    assert list(gradients) == ["down", "up"]


@pytest.mark.parametrize("frozen", ["weight", "bias"])
@pytest.mark.parametrize(
    "layer",
    [nn.Linear(3, 4), nn.Conv1d(3, 4, 2), nn.GroupNorm(1, 3), nn.ConvTranspose1d(3, 4, 2)],
)
def test_frozen_parameters_have_no_entry(oracle, layer, frozen):
    module = nn.Sequential(nn.Tanh(), layer, nn.Tanh())
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name != frozen)
    gradients = oracle.check(module, torch.randn(6, 3, 3), views=2)
    assert list(gradients) == ["1.bias" if frozen == "weight" else "1.weight"]


def test_unused_parameters_have_zeros(oracle):
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.used(x)

    gradients = oracle.check(Partly(), torch.randn(6, 3), views=2)
    assert gradients["unused.weight"].shape == (3, 2, 3)
    assert not gradients["unused.weight"].any()


def test_a_parameter_behind_no_grad_or_detach_takes_no_gradient_from_there(oracle):
    class Stopped(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            with torch.no_grad():
                target = self.layer(x)
            return self.layer(x.sin()) - target + x * self.layer.bias.detach()

    oracle.check(Stopped(), torch.randn(6, 3), views=2)


def test_dynamic_weights_computed_from_the_data(oracle):
    class Dynamic(nn.Module):
        def __init__(self):
            super().__init__()
            self.make = nn.Linear(3, 6)
            self.bias = nn.Parameter(torch.randn(2))

        def forward(self, x):
            weight = self.make(x).view(-1, 2, 3)
            return torch.bmm(weight, x.unsqueeze(2)).squeeze(2) + self.bias

    oracle.check(Dynamic(), torch.randn(6, 3), views=2)


def test_patches_folded_into_the_batch(oracle):
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.norm = nn.LayerNorm(3)

        def forward(self, x):
            n, t, c = x.shape
            windows = self.norm(self.layer(x.view(n * 2, t // 2, c)))
            return self.layer(windows.view(n * t, c)).view(n, t, c)

    oracle.check(Windows(), torch.randn(6, 4, 3), views=2)


def test_checkpointed_activations(oracle):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(3, 4)
            self.rest = nn.Sequential(nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))

        def forward(self, x):
            return checkpoint(self.rest, self.first(x), use_reentrant=False)

    oracle.check(Checkpointed(), torch.randn(6, 3), views=2)


def test_no_rows_of_another_unit_whatever_the_sizes(oracle):
    """Channels, lengths and parameters as large as the batch are not mistaken for it."""

    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)
            self.positions = nn.Parameter(torch.randn(6, 6))
            self.norm = nn.LayerNorm(6)
            self.mask = torch.ones(6, 6).tril()

        def forward(self, x):
            return self.norm(self.layer(x) + self.positions) * self.mask.to(x)

    oracle.check(Square(), torch.randn(6, 6, 6), views=2)


class Opaque(torch.autograd.Function):
    """A function whose use of a parameter no interceptor of torch functions sees."""

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx, g):
        x, weight = ctx.saved_tensors
        return g @ weight.t(), x.t() @ g


class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.weight = nn.Parameter(torch.randn(4, 2))

    def forward(self, x):
        return Opaque.apply(self.layer(x), self.weight)


class TimeMajor(nn.Module):
    """Rows of a unit are not adjacent within the flattened first dimension."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        n, t, c = x.shape
        return self.layer(x.transpose(0, 1).reshape(t * n, c)).view(t, n, c).transpose(0, 1)


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.start = nn.Parameter(torch.randn(2))

    def forward(self, x):
        x = self.layer(x)
        x[:, :2] = self.start
        return self.layer(x)


class Penalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]


class Mapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        return torch.func.vmap(self.layer)(x)


@pytest.mark.parametrize("module", [Hidden, TimeMajor, InPlace, Penalised, Mapped])
def test_what_no_rule_covers_goes_one_unit_at_a_time(oracle, module):
    inputs = torch.randn(6, 4, 3) if module is TimeMajor else torch.randn(6, 3)
    oracle.check(module(), inputs, views=2, slower=True)


class Balancing(torch.autograd.Function):
    """Leaves the forward as it is and mixes the rows of the batch in the backward."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g - g.mean(0)


def test_mixing_in_the_backward_alone_stays_within_units(oracle):
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x):
            return Balancing.apply(self.layer(x))

    module = nn.Sequential(Layer(), nn.Linear(4, 2))
    oracle.check(module, torch.randn(6, 3), views=2, slower=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_scripted_module_goes_one_unit_at_a_time(oracle):
    class Scripted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double())
            self.outer = nn.Linear(4, 2)

        def forward(self, x):
            return self.outer(self.inner(x))

    oracle.check(Scripted(), torch.randn(6, 3), views=2, slower=True)


def test_the_slower_path_is_remembered_and_warns_once(recwarn):
    module, x = Hidden(), torch.randn(6, 3)
    for _ in range(3):
        per_unit_gradients(module, lambda m, x: m(x).square().sum(1), (x,), views=2)
    messages = [str(w.message) for w in recwarn if "one by one" in str(w.message)]
    assert len(messages) == 1
    assert "weight" in messages[0]
