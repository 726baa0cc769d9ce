"""The DDPM++ U-Net: sizes of the paper, shapes, conditioning, and what per-unit gradients need."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dpdm.errors import RequestError
from dpdm.networks import UNet

MNIST = {"image_size": 28, "in_channels": 1, "out_channels": 1, "classes": 10, "attention": (7,)}
CELEBA32 = {"image_size": 32, "in_channels": 3, "out_channels": 3, "attention": (8, 16)}
SMALL = {
    "image_size": 8,
    "in_channels": 2,
    "out_channels": 1,
    "base_channels": 8,
    "multipliers": (1, 2),
    "blocks": 1,
    "attention": (4,),
    "classes": 3,
}


def network(**changes: Any) -> UNet:
    return UNet(**{**SMALL, **changes}, generator=torch.Generator().manual_seed(0))


def trained(net: UNet, dtype: torch.dtype = torch.float64) -> UNet:
    """The network as after some training: no weight is zero any more."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return net.to(dtype)


def call(net: UNet, n: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    dtype = next(net.parameters()).dtype
    x = torch.randn(n, net.in_channels, *net.image_size, generator=generator, dtype=dtype)
    c_noise = torch.randn(n, generator=generator, dtype=dtype)
    labels = torch.randint(-1, net.classes, (n,), generator=generator) if net.classes else None
    return x, c_noise, labels


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


# Sizes


def test_mnist_settings_have_the_papers_number_of_parameters() -> None:
    assert parameters(UNet(**MNIST)) == 1_753_345


def test_celeba32_settings_have_the_papers_number_of_parameters() -> None:
    count = parameters(UNet(**CELEBA32))
    assert count == 1_804_451
    assert f"{count / 1e6:.2f}" == "1.80"


@pytest.mark.parametrize("settings", [MNIST, CELEBA32])
def test_default_settings_are_the_papers(settings: dict[str, Any]) -> None:
    explicit = UNet(
        **settings, base_channels=32, multipliers=(1, 2, 2), blocks=2, dropout=0.0, patch=1
    )
    assert {n: p.shape for n, p in UNet(**settings).named_parameters()} == {
        n: p.shape for n, p in explicit.named_parameters()
    }


@settings(max_examples=25, deadline=None)
@given(
    levels=st.integers(1, 3),
    height=st.integers(1, 3),
    width=st.integers(1, 3),
    patch=st.sampled_from([1, 2]),
    channels=st.integers(1, 4),
    multiple=st.sampled_from([1, 3]),
    classes=st.sampled_from([0, 1, 5]),
    blocks=st.integers(1, 2),
    base_channels=st.sampled_from([4, 6, 12]),
)
def test_output_has_the_images_shape_for_any_size_divisible_by_the_levels(
    levels: int,
    height: int,
    width: int,
    patch: int,
    channels: int,
    multiple: int,
    classes: int,
    blocks: int,
    base_channels: int,
) -> None:
    step = patch * 2 ** (levels - 1)
    net = UNet(
        image_size=(height * step, width * step),
        in_channels=channels * multiple,
        out_channels=channels,
        base_channels=base_channels,
        multipliers=(1, 2, 3)[:levels],
        blocks=blocks,
        attention=(height,),
        classes=classes,
        patch=patch,
    )
    assert net(*call(net, n=2)).shape == (2, channels, height * step, width * step)


def test_odd_deepest_resolution_is_allowed() -> None:
    net = UNet(**{**MNIST, "base_channels": 4, "blocks": 1})
    assert net(*call(net)).shape == (4, 1, 28, 28)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"image_size": 9}, r"data.image_size=9x9: must be divisible by 2 for the 2 levels"),
        ({"image_size": (8, 7)}, r"data.image_size=8x7: .*network.multipliers=\(1, 2\)"),
        ({"image_size": 6, "patch": 2}, r"divisible by 4 .* and network.patch=2"),
        ({"image_size": 0}, r"data.image_size=0x0"),
        ({"multipliers": ()}, r"network.multipliers=\(\)"),
        ({"multipliers": (1, 0)}, r"network.multipliers=\(1, 0\)"),
        ({"blocks": 0}, r"network.blocks=0"),
        ({"patch": 0}, r"network.patch=0"),
        ({"base_channels": 7}, r"network.base_channels=7"),
        ({"base_channels": 2}, r"network.base_channels=2"),
        ({"noise_frequencies": (1.0, 0.0)}, r"network.noise_frequencies"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_key(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestError, match=named) as caught:
        network(**changes)
    assert "\n" not in str(caught.value)


def test_inputs_of_another_shape_are_refused() -> None:
    net = network()
    x, c_noise, labels = call(net)
    with pytest.raises(RequestError, match=r"inputs.*\(N, 2, 8, 8\)"):
        net(x[:, :1], c_noise, labels)
    with pytest.raises(RequestError, match="c_noise"):
        net(x, c_noise[:1], labels)
    with pytest.raises(RequestError, match="labels"):
        net(x, c_noise, labels[:1])


# Start


@pytest.mark.parametrize("patch", [1, 2])
def test_output_is_exactly_zero_before_training(patch: int) -> None:
    net = network(patch=patch)
    assert torch.equal(net(*call(net)), torch.zeros(4, 1, 8, 8))


def test_initial_weights_are_those_of_the_generator() -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        return UNet(**SMALL, generator=torch.Generator().manual_seed(seed)).state_dict()

    first, again, other = weights(3), weights(3), weights(4)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stem.weight"], other["stem.weight"])


def test_gradient_reaches_every_parameter() -> None:
    net = trained(network(dropout=0.1))
    labels = torch.tensor([0, 1, 2, -1])
    net(*call(net)[:2], labels).square().sum().backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


# The whole network against a plain reading of the recipe


def reference_forward(net: UNet, x: Tensor, c_noise: Tensor, labels: Tensor) -> Tensor:
    """One image at a time, from the weights and the settings alone, in elementary operations."""
    weights = net.state_dict()
    half = net.stem.out_channels // 2

    def conv(h: Tensor, name: str) -> Tensor:
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        reach = weight.shape[-1] // 2
        height, width = h.shape[-2:]
        padded = torch.zeros(h.shape[0], height + 2 * reach, width + 2 * reach, dtype=h.dtype)
        padded[:, reach : reach + height, reach : reach + width] = h
        out = bias[:, None, None].expand(-1, height, width).clone()
        for i in range(weight.shape[-2]):
            for j in range(weight.shape[-1]):
                window = padded[:, i : i + height, j : j + width]
                out += torch.einsum("oc,chw->ohw", weight[:, :, i, j], window)
        return out

    def dense(h: Tensor, name: str) -> Tensor:
        return h @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(h: Tensor, name: str) -> Tensor:
        channels = h.shape[0]
        groups = h.reshape(min(channels // 4, 32), -1)
        variance, mean = torch.var_mean(groups, dim=1, correction=0, keepdim=True)
        h = ((groups - mean) / (variance + 1e-6).sqrt()).reshape(h.shape)
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return h * weight[:, None, None] + bias[:, None, None]

    def swish(h: Tensor) -> Tensor:
        return h / (1 + torch.exp(-h))

    def halve(h: Tensor) -> Tensor:
        return (h[:, ::2, ::2] + h[:, 1::2, ::2] + h[:, ::2, 1::2] + h[:, 1::2, 1::2]) / 4

    def double(h: Tensor) -> Tensor:
        return h.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)

    def residual(h: Tensor, name: str, resample: Any = lambda h: h) -> Tensor:
        inner = conv(resample(swish(norm(h, f"{name}.norm_in"))), f"{name}.conv_in")
        inner = inner + dense(swish(embedding), f"{name}.shift")[:, None, None]
        inner = conv(swish(norm(inner, f"{name}.norm_out")), f"{name}.conv_out")
        h = resample(h)
        if f"{name}.shortcut.weight" in weights:
            h = conv(h, f"{name}.shortcut")
        return (h + inner) / 2**0.5

    def attention(h: Tensor, name: str) -> Tensor:
        channels = h.shape[0]
        pixels = norm(h, f"{name}.norm").reshape(channels, -1).T
        q, k, v = dense(pixels, f"{name}.qkv").split(channels, dim=1)
        mixed = torch.softmax(q @ k.T / channels**0.5, dim=1) @ v
        return (h + dense(mixed, f"{name}.project").T.reshape(h.shape)) / 2**0.5

    outputs = []
    for image, noise, label in zip(x, c_noise, labels, strict=True):
        angles = noise * 10_000.0 ** (-torch.arange(half, dtype=x.dtype) / (half - 1))
        embedding = torch.cat([angles.sin(), angles.cos()])
        embedding = embedding + weights["class_embedding.weight"][label]
        embedding = dense(swish(dense(embedding, "dense_in")), "dense_out")
        # The settings of SMALL: 8x8 then 4x4 (with attention), one block a level.
        e0 = conv(image, "stem")
        e1 = residual(e0, "encoder.0.block")
        e2 = residual(e1, "encoder.1.block", halve)
        e3 = attention(residual(e2, "encoder.2.block"), "encoder.2.attention")
        h = attention(residual(e3, "middle.0.block"), "middle.0.attention")
        h = residual(h, "middle.1.block")
        h = residual(torch.cat([h, e3]), "decoder.0.block")
        h = residual(torch.cat([h, e2]), "decoder.1.block")
        h = attention(h, "decoder.1.attention")
        h = residual(h, "decoder.2.block", double)
        h = residual(torch.cat([h, e1]), "decoder.3.block")
        h = residual(torch.cat([h, e0]), "decoder.4.block")
        outputs.append(conv(swish(norm(h, "norm_out")), "conv_out"))
    return torch.stack(outputs)


def test_forward_equals_a_plain_reading_of_the_recipe() -> None:
    net = trained(network())
    x, c_noise, _ = call(net)
    labels = torch.tensor([0, 2, 1, -1])  # -1 is the table's last row in Python too
    torch.testing.assert_close(
        net(x, c_noise, labels),
        reference_forward(net, x, c_noise, labels),
        rtol=1e-6,  # the frequencies of the noise embedding are float32
        atol=1e-6,
    )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_format_does_not_change_the_result(memory_format: torch.memory_format) -> None:
    net = trained(network())
    x, c_noise, labels = call(net)
    expected = net(x, c_noise, labels)
    net = net.to(memory_format=memory_format)
    actual = net(x.contiguous(memory_format=memory_format), c_noise, labels)
    torch.testing.assert_close(actual, expected)


def test_patch_gives_the_network_squares_of_pixels_as_channels() -> None:
    patched = trained(network(patch=2, multipliers=(1,), out_channels=2))
    plain = trained(
        network(image_size=4, in_channels=8, out_channels=8, multipliers=(1,)),
    )
    plain.load_state_dict(patched.state_dict())
    x, c_noise, labels = call(patched)
    squares = x.reshape(4, 2, 4, 2, 4, 2).permute(0, 1, 3, 5, 2, 4).reshape(4, 8, 4, 4)
    expected = plain(squares, c_noise, labels)
    expected = expected.reshape(4, 2, 2, 2, 4, 4).permute(0, 1, 4, 2, 5, 3).reshape(4, 2, 8, 8)
    torch.testing.assert_close(patched(x, c_noise, labels), expected)


# Conditioning


def test_output_depends_on_noise_level_and_on_class() -> None:
    net = trained(network())
    x, c_noise, _ = call(net)
    zero, one = torch.zeros(4, dtype=torch.int64), torch.ones(4, dtype=torch.int64)
    out = net(x, c_noise, zero)
    assert not torch.allclose(out, net(x, c_noise + 1, zero))
    assert not torch.allclose(out, net(x, c_noise, one))


def test_minus_one_is_the_row_after_the_classes() -> None:
    net = trained(network())
    x, c_noise, _ = call(net)
    net(x, c_noise, torch.full((4,), -1)).square().sum().backward()
    assert net.class_embedding is not None
    gradient = net.class_embedding.weight.grad
    assert gradient is not None
    assert gradient.shape[0] == 3 + 1
    assert gradient[:3].count_nonzero() == 0
    assert gradient[3].count_nonzero() > 0


def test_no_labels_are_minus_one_throughout() -> None:
    net = trained(network())
    x, c_noise, _ = call(net)
    assert torch.equal(net(x, c_noise), net(x, c_noise, torch.full((4,), -1)))


@pytest.mark.parametrize("wrong", [3, 4, 100, -2, -4])
def test_a_label_that_is_no_class_is_refused(wrong: int) -> None:
    net = network()
    x, c_noise, _ = call(net)
    with pytest.raises(RequestError, match=r"outside 0\.\.2"):
        net(x, c_noise, torch.tensor([0, 1, wrong, 2]))


def test_a_network_without_classes_takes_no_label() -> None:
    net = trained(network(classes=0))
    x, c_noise, _ = call(net)
    assert torch.equal(net(x, c_noise), net(x, c_noise, torch.full((4,), -1)))
    with pytest.raises(RequestError, match="no classes"):
        net(x, c_noise, torch.tensor([-1, -1, 0, -1]))


# What per-unit gradients need


def test_an_output_depends_on_its_own_input_only() -> None:
    net = trained(network())
    x, c_noise, labels = call(net)
    x.requires_grad_()
    c_noise.requires_grad_()
    out = net(x, c_noise, labels)
    for i in range(4):
        by_x, by_noise = torch.autograd.grad(out[i].square().sum(), (x, c_noise), retain_graph=True)
        touched = by_x.flatten(1).any(dim=1).nonzero().flatten().tolist()
        assert (touched, by_noise.nonzero().flatten().tolist()) == ([i], [i])


def test_every_parameter_lives_in_a_plain_layer_called_exactly_once() -> None:
    net = network(dropout=0.1)
    plain = (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.Embedding)
    calls: Counter[str] = Counter()
    for name, module in net.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            assert type(module) in plain, name
            module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    net(*call(net))
    assert set(calls.values()) == {1}
    assert {name.rpartition(".")[0] for name, _ in net.named_parameters()} == set(calls)


def test_no_module_keeps_statistics_of_the_batch() -> None:
    assert list(network().state_dict()) == [name for name, _ in network().named_parameters()]


def test_backward_hooks_on_every_module_are_allowed() -> None:
    net = trained(network())
    for module in net.modules():
        if not isinstance(module, nn.Embedding):  # its input has no gradient to hook
            module.register_full_backward_hook(lambda *_: None)
    x, c_noise, labels = call(net)
    x.requires_grad_()
    net(x, c_noise.requires_grad_(), labels).sum().backward()
    assert x.grad is not None


def test_dropout_acts_in_training_only() -> None:
    net = trained(network(dropout=0.5))
    arguments = call(net)
    assert not torch.equal(net(*arguments), net(*arguments))
    net.eval()
    assert torch.equal(net(*arguments), net(*arguments))


def test_it_compiles_without_a_graph_break() -> None:
    net = trained(network())
    arguments = call(net)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*arguments), net(*arguments))


def test_it_learns_a_single_image() -> None:
    net = network(in_channels=1)
    _, c_noise, labels = call(net, n=16)
    generator = torch.Generator().manual_seed(2)
    target = torch.randn(1, 1, 8, 8, generator=generator).expand(16, -1, -1, -1)
    x = target + 0.5 * torch.randn(16, 1, 8, 8, generator=generator)
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        loss = (net(x, c_noise, labels) - target).square().mean()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1 * target.square().mean().item()
