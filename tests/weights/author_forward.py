"""What BigGAN-PyTorch computes in evaluation, written down from its formulas over a plain state dict.

It uses nothing of gansmith: spectral norm takes one power step from the stored u0 in every layer, conditional
BatchNorm multiplies by 1 + gain, the class comes before the chunk of z, everything by the names in the file.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


class Weights:
    """A state dict of theirs, with their spectral norm."""

    def __init__(self, state: dict[str, Tensor], sn_eps: float, bn_eps: float) -> None:
        self.state, self.sn_eps, self.bn_eps = state, sn_eps, bn_eps

    def has(self, name: str) -> bool:
        return f"{name}.weight" in self.state

    def W(self, name: str) -> Tensor:
        W = self.state[f"{name}.weight"]
        flat = W.flatten(1)
        v = F.normalize(self.state[f"{name}.u0"] @ flat, eps=self.sn_eps)
        u = F.normalize(v @ flat.t(), eps=self.sn_eps)
        return W / (v @ flat.t() @ u.t()).squeeze()

    def conv(self, name: str, x: Tensor) -> Tensor:
        W = self.W(name)
        return F.conv2d(x, W, self.state.get(f"{name}.bias"), padding=W.shape[2] // 2)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.W(name), self.state.get(f"{name}.bias"))

    def normalized(self, name: str, x: Tensor, eps: float) -> Tensor:
        return F.batch_norm(
            x,
            self.state[f"{name}.stored_mean"],
            self.state[f"{name}.stored_var"],
            None,
            None,
            False,
            0.1,
            eps,
        )

    def ccbn(self, name: str, x: Tensor, condition: Tensor) -> Tensor:
        gain, bias = (self.linear(f"{name}.{part}", condition)[:, :, None, None] for part in ("gain", "bias"))
        return self.normalized(name, x, self.bn_eps) * (1 + gain) + bias

    def attention(self, name: str, x: Tensor) -> Tensor:
        n, channels, height, width = x.shape
        theta = self.conv(f"{name}.theta", x).view(n, channels // 8, height * width)
        phi = F.max_pool2d(self.conv(f"{name}.phi", x), 2).view(n, channels // 8, height * width // 4)
        g = F.max_pool2d(self.conv(f"{name}.g", x), 2).view(n, channels // 2, height * width // 4)
        beta = F.softmax(theta.transpose(1, 2) @ phi, -1)
        mixed = (g @ beta.transpose(1, 2)).view(n, channels // 2, height, width)
        return self.state[f"{name}.gamma"] * self.conv(f"{name}.o", mixed) + x


def _up(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2)


def generator(w: Weights, z: Tensor, y: Tensor, *, deep: bool) -> Tensor:
    """z (N, dim_z), y int64 (N,) → images (N, 3, R, R) in [-1, 1], of hierarchical networks."""
    shared = w.state["shared.weight"][y]
    blocks = len({name.split(".")[1] for name in w.state if name.startswith("blocks.")})
    if deep:
        first = torch.cat([shared, z], 1)
        conditions = [first] * blocks
    else:
        chunks = z.split(z.shape[1] // (blocks + 1), 1)
        first, conditions = chunks[0], [torch.cat([shared, chunk], 1) for chunk in chunks[1:]]
    h = w.linear("linear", first).view(len(z), -1, 4, 4)
    for i, condition in enumerate(conditions):
        name = f"blocks.{i}.0"
        h = _deep_block(w, name, h, condition, up=i % 2 == 1) if deep else _block(w, name, h, condition)
        if w.has(f"blocks.{i}.1.theta"):
            h = w.attention(f"blocks.{i}.1", h)
    gain, bias = (w.state[f"output_layer.0.{part}"][:, None, None] for part in ("gain", "bias"))
    h = w.normalized("output_layer.0", h, 1e-5) * gain + bias
    return torch.tanh(w.conv("output_layer.2", F.relu(h)))


def _block(w: Weights, name: str, x: Tensor, condition: Tensor) -> Tensor:
    h = w.conv(f"{name}.conv1", _up(F.relu(w.ccbn(f"{name}.bn1", x, condition))))
    h = w.conv(f"{name}.conv2", F.relu(w.ccbn(f"{name}.bn2", h, condition)))
    return h + w.conv(f"{name}.conv_sc", _up(x))


def _deep_block(w: Weights, name: str, x: Tensor, condition: Tensor, *, up: bool) -> Tensor:
    h = w.conv(f"{name}.conv1", F.relu(w.ccbn(f"{name}.bn1", x, condition)))
    h = F.relu(w.ccbn(f"{name}.bn2", h, condition))
    h = w.conv(f"{name}.conv2", _up(h) if up else h)
    h = w.conv(f"{name}.conv3", F.relu(w.ccbn(f"{name}.bn3", h, condition)))
    h = w.conv(f"{name}.conv4", F.relu(w.ccbn(f"{name}.bn4", h, condition)))
    x = x[:, : h.shape[1]]
    return h + (_up(x) if up else x)


def discriminator(w: Weights, x: Tensor, y: Tensor, down: list[bool]) -> Tensor:
    """x (N, 3, R, R), y → logits (N,), of BigGAN (not deep). down: whether each block halves."""
    h = x
    for i, halves in enumerate(down):
        name = f"blocks.{i}.0"
        inner = w.conv(f"{name}.conv2", F.relu(w.conv(f"{name}.conv1", F.relu(h) if i else h)))
        pool = (lambda t: F.avg_pool2d(t, 2)) if halves else (lambda t: t)
        if w.has(f"{name}.conv_sc"):
            h = pool(w.conv(f"{name}.conv_sc", h)) if i else w.conv(f"{name}.conv_sc", pool(h))
        h = pool(inner) + h
    h = F.relu(h).sum((2, 3))
    return (w.linear("linear", h) + (w.W("embed")[y] * h).sum(1, keepdim=True)).squeeze(1)
