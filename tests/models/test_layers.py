"""Layers against their definitions: resampling convolutions, attention."""

import pytest
import torch
import torch.nn.functional as F

from gansmith.models import spectral
from gansmith.models.layers import Attention, Conv, conv_downsampled, conv_of_upsampled, initialize


def plain_up(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.conv2d(F.interpolate(x, scale_factor=2), weight, bias, padding=1)


def plain_down(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(F.conv2d(x, weight, bias, padding=1), 2)


@pytest.mark.parametrize(
    ("rewritten", "plain"), [(conv_of_upsampled, plain_up), (conv_downsampled, plain_down)]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_resampling_convolutions_equal_resampling_and_convolution(rewritten, plain, dtype, tolerance) -> None:
    x = torch.randn(3, 6, 8, 8, dtype=dtype, requires_grad=True)
    weight = (torch.randn(5, 6, 3, 3, dtype=dtype) / 8).requires_grad_()
    bias = torch.randn(5, dtype=dtype, requires_grad=True)
    out, expected = rewritten(x, weight, bias), plain(x, weight, bias)
    torch.testing.assert_close(out, expected, atol=tolerance, rtol=tolerance)
    noise = torch.randn_like(out)
    leaves = [x, weight, bias]
    got = torch.autograd.grad((out * noise).sum(), leaves, create_graph=True)
    wanted = torch.autograd.grad((expected * noise).sum(), leaves, create_graph=True)
    for a, b in zip(got, wanted):
        torch.testing.assert_close(a, b, atol=10 * tolerance, rtol=tolerance)
    # and once more: the gradient of a gradient norm
    again = torch.autograd.grad(got[0].square().sum(), weight)[0]
    torch.testing.assert_close(
        again, torch.autograd.grad(wanted[0].square().sum(), weight)[0], atol=100 * tolerance, rtol=tolerance
    )


def test_both_paths_of_a_layer_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    conv = Conv(4, 6, 3, 1e-6)
    torch.nn.init.normal_(conv.weight)
    torch.nn.init.normal_(conv.bias)
    spectral.converge(conv)
    x = torch.randn(2, 4, 8, 8)
    fast = conv.of_upsampled(x), conv.downsampled(x)
    monkeypatch.setattr(Conv, "_rewritten", lambda self, x: False)
    for a, b in zip(fast, (conv.of_upsampled(x), conv.downsampled(x))):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_attention_is_the_published_formula() -> None:
    attention = Attention(16, None)
    for p in attention.parameters():
        torch.nn.init.normal_(p, std=0.5)
    x = torch.randn(2, 16, 4, 4)
    expected = torch.empty_like(x)
    with torch.no_grad():
        theta, phi, g, o = (getattr(attention, name).weight.flatten(1) for name in ("theta", "phi", "g", "o"))
        for n in range(2):
            pixels = x[n].flatten(1)  # (16, 16)
            keys = F.max_pool2d((phi @ pixels).view(1, 2, 4, 4), 2).view(2, 4)
            values = F.max_pool2d((g @ pixels).view(1, 8, 4, 4), 2).view(8, 4)
            weights = torch.softmax((theta @ pixels).T @ keys, 1)  # no scaling
            expected[n] = x[n] + attention.gamma * (o @ (values @ weights.T)).view(16, 4, 4)
        torch.testing.assert_close(attention(x), expected, atol=1e-5, rtol=1e-5)


def test_attention_starts_closed() -> None:
    attention = Attention(16, None)
    initialize(attention, "ortho")
    x = torch.randn(2, 16, 4, 4)
    assert torch.equal(attention(x), x)
