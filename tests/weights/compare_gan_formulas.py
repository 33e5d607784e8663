"""compare_gan's variables and forward passes, written down plainly from its published formulas.

The other side of its reader's tests: knows nothing of our networks.
"""

import re
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CLASSES, SHARED, CHUNK, EPS = 5, 6, 4, 1e-5
G_WIDTHS = {
    32: [4, 4, 4, 4],
    64: [16, 16, 8, 4, 2],
    128: [16, 16, 8, 4, 2, 1],
    512: [16, 16, 8, 8, 4, 2, 1, 1],
}
D_WIDTHS = {
    32: [2, 2, 2, 2],
    64: [2, 4, 8, 16, 16],
    128: [1, 2, 4, 8, 16, 16],
    512: [1, 1, 2, 4, 8, 8, 16, 16],
}


class Drawn(dict):
    """Random variables of a training checkpoint by name."""

    def __init__(self, side: str = "left", save_u: bool = True) -> None:
        super().__init__()
        self.random, self.side, self.save_u = np.random.default_rng(0), side, save_u

    def draw(self, name: str, *shape: int, scale: float = 1.0, centre: float = 0.0) -> None:
        self[name] = (self.random.standard_normal(shape) * scale + centre).astype(np.float32)

    def kernel(self, name: str, *shape: int, bias: bool = True) -> None:
        self.draw(f"{name}/kernel", *shape)
        rows = int(np.prod(shape[:-1]))
        left = rows <= shape[-1] if self.side == "auto" else self.side == "left"
        if self.save_u:
            self.draw(f"{name}/kernel/u_var", *((rows, 1) if left else (1, shape[-1])))
        if bias:
            self.draw(f"{name}/bias", shape[-1], scale=0.2)

    def statistics(self, name: str, channels: int, count: float) -> None:
        self.draw(f"{name}/accu/accu_mean", channels)
        self[f"{name}/accu/accu_variance"] = (1 + self.random.random(channels)).astype(np.float32)
        for part in ("mean", "variance"):
            self[f"{name}/accu/accu_{part}"] *= count
        self[f"{name}/accu/accu_counter"] = np.array(count, np.float32)
        self[f"{name}/accu/update_accus"] = np.array(0, np.int32)

    def norm(self, name: str, channels: int, condition: int, count: float) -> None:
        for part in ("gamma", "beta"):
            self.kernel(f"{name}/condition/{part}", condition, channels, bias=False)
        self.statistics(name, channels, count)

    def attention(self, scope: str, width: int) -> None:
        thin, half = max(width // 8, 1), width // 2
        for part, inputs, outputs in (
            ("theta", width, thin), ("phi", width, thin), ("g", width, half), ("attn_g", half, width),
        ):  # fmt: skip
            self.kernel(f"{scope}/non_local_block/conv2d_{part}", 1, 1, inputs, outputs, bias=False)
        self[f"{scope}/non_local_block/sigma"] = np.array(0.7, np.float32)


def drawn(
    deep: bool, resolution: int, ch: int, attention: int | None, count: float = 3.0, **how: Any
) -> Drawn:
    """G and D of a network as compare_gan names its variables, with averages of G's and Adam's slots."""
    v = Drawn(**how)
    table = [m * ch for m in G_WIDTHS[resolution]]
    z = CHUNK if deep else CHUNK * len(table)
    condition = SHARED + CHUNK
    v.draw("generator/embed_y/kernel", CLASSES, SHARED)
    v.kernel("generator/fc_noise", condition if deep else CHUNK, 16 * table[0])
    for i, (a, b) in enumerate([] if deep else pairwise(table)):
        block = f"generator/B{i + 1}"
        v.norm(f"{block}/bn1", a, condition, count)
        v.norm(f"{block}/bn2", b, condition, count)
        v.kernel(f"{block}/up_conv1", 3, 3, a, b)
        v.kernel(f"{block}/same_conv2", 3, 3, b, b)
        v.kernel(f"{block}/up_conv_shortcut", 1, 1, a, b)
    if deep:
        pairs = [p for a, b in pairwise(table) for p in ((a, a), (a, b))]
        for i, (a, b) in enumerate(pairs):
            for k, (m, n) in enumerate([(a, a // 4), (a // 4, a // 4), (a // 4, a // 4), (a // 4, b)], 1):
                v.norm(f"generator/B{i + 1}/conv{k}/bn", m, condition, count)
                size = 1 if k in (1, 4) else 3
                v.kernel(f"generator/B{i + 1}/conv{k}/{size}x{size}_conv", size, size, m, n)
    if attention:
        v.attention("generator", table[attention.bit_length() - 3])
    v.draw("generator/final_norm/gamma", table[-1], centre=1)
    v.draw("generator/final_norm/beta", table[-1])
    v.statistics("generator/final_norm", table[-1], count)
    v.kernel("generator/final_conv", 3, 3, table[-1], 3)
    for name in [n for n in v if not re.search("u_var|accu", n)]:
        v[f"{name}/ExponentialMovingAverage"] = v[name]
        v[name] = v[name] * np.float32(0.8)
    draw_discriminator(v, deep, [m * ch for m in D_WIDTHS[resolution]], attention, resolution)
    for name in [n for n in v if n.startswith("discriminator") and "u_var" not in n]:
        v[f"{name}/d_"], v[f"{name}/d__1"] = v[name] * 0, v[name] * 0
    v["global_step"], v["beta1_power"] = np.array(77, np.int64), np.array(0.5, np.float32)
    v["z_dim"] = np.array(z, np.int32)
    return v


def draw_discriminator(
    v: Drawn, deep: bool, widths: list[int], attention: int | None, resolution: int
) -> None:
    if deep:
        v.kernel("discriminator/initial_conv", 3, 3, 3, widths[0])
        pairs = [p for a, b in pairwise(widths) for p in ((a, b), (b, b))]
        for i, (a, b) in enumerate(pairs):
            for k, (m, n) in enumerate([(a, b // 4), (b // 4, b // 4), (b // 4, b // 4), (b // 4, b)], 1):
                size = 1 if k in (1, 4) else 3
                v.kernel(f"discriminator/B{i + 1}/conv{k}/{size}x{size}_conv", size, size, m, n)
            if a != b:
                v.kernel(f"discriminator/B{i + 1}/shortcut/add_channels", 1, 1, a, b - a)
    else:
        for i, (a, b) in enumerate(zip([3, *widths], widths)):
            scale = "same" if i == len(widths) - 1 else "down"
            v.kernel(f"discriminator/B{i + 1}/same_conv1", 3, 3, a, b)
            v.kernel(f"discriminator/B{i + 1}/{scale}_conv2", 3, 3, b, b)
            if a != b:
                v.kernel(f"discriminator/B{i + 1}/{scale}_conv_shortcut", 1, 1, a, b)
    if attention:
        place = [resolution >> (i + 1) for i in range(len(widths))].index(attention)
        v.attention("discriminator", widths[place + deep])
    v.kernel("discriminator/final_fc", widths[-1], 1)
    v.kernel("discriminator/embedding_fc", CLASSES, widths[-1], bias=False)


# The published formulas
# -------------------------------------------------------------------------------------------------------


class Plain:
    """compare_gan's forward passes over a checkpoint's variables, NCHW."""

    def __init__(self, v: Drawn, averaged: bool = True, gain: float = 0.0) -> None:
        self.v, self.averaged, self.gain = v, averaged, gain

    def get(self, name: str) -> Tensor:
        twin = f"{name}/ExponentialMovingAverage"
        return torch.from_numpy(np.asarray(self.v[twin if self.averaged and twin in self.v else name]))

    def kernel(self, name: str) -> Tensor:
        w, u = self.get(f"{name}/kernel"), self.get(f"{name}/kernel/u_var")
        m = w.reshape(-1, w.shape[-1])
        if u.shape == (len(m), 1):
            right = m.T @ u / (m.T @ u).norm()
            left = m @ right / (m @ right).norm()
        else:
            left = m @ u.T / (m @ u.T).norm()
            right = m.T @ left / (m.T @ left).norm()
        return w / (left.T @ m @ right)

    def conv(self, x: Tensor, name: str) -> Tensor:
        w = self.kernel(name).permute(3, 2, 0, 1)
        bias = self.get(f"{name}/bias") if f"{name}/bias" in self.v else None
        return F.conv2d(x, w, bias, padding=w.shape[-1] // 2)

    def unpool(self, x: Tensor) -> Tensor:
        wide = torch.stack([x, torch.zeros_like(x)], -1).flatten(-2)
        return torch.stack([wide, torch.zeros_like(wide)], -2).flatten(-3, -2)

    def norm(self, x: Tensor, name: str) -> Tensor:
        count = self.get(f"{name}/accu/accu_counter")
        mean, var = (self.get(f"{name}/accu/accu_{k}") / count for k in ("mean", "variance"))
        return (x - mean.view(-1, 1, 1)) / (var.view(-1, 1, 1) + EPS).sqrt()

    def conditional(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        gamma, beta = (y @ self.kernel(f"{name}/condition/{part}") for part in ("gamma", "beta"))
        return F.relu(self.norm(x, name) * (self.gain + gamma)[:, :, None, None] + beta[:, :, None, None])

    def attention(self, x: Tensor, scope: str) -> Tensor:
        theta, phi, g = (self.conv(x, f"{scope}/non_local_block/conv2d_{p}") for p in ("theta", "phi", "g"))
        phi, g = (F.max_pool2d(t, 2).flatten(2) for t in (phi, g))
        weights = torch.softmax(theta.flatten(2).transpose(1, 2) @ phi, -1)
        seen = (weights @ g.transpose(1, 2)).transpose(1, 2).reshape(len(x), -1, *x.shape[2:])
        return x + self.get(f"{scope}/non_local_block/sigma") * self.conv(
            seen, f"{scope}/non_local_block/conv2d_attn_g"
        )

    def generator(self, z: Tensor, label: Tensor, deep: bool, attention: int | None) -> Tensor:
        y = self.get("generator/embed_y/kernel")[label]
        parts = [torch.cat([z, y], 1)] if deep else list(z.split(CHUNK, 1))
        h = parts[0] @ self.kernel("generator/fc_noise") + self.get("generator/fc_noise/bias")
        h = h.reshape(len(z), 4, 4, -1).permute(0, 3, 1, 2)
        i = 1
        while f"generator/B{i}/{'conv1/1x1_conv' if deep else 'up_conv1'}/kernel" in self.v:
            block, x, up = f"generator/B{i}", h, not deep or i % 2 == 0
            if deep:
                for k, size in ((1, 1), (2, 3), (3, 3), (4, 1)):
                    h = self.conditional(h, parts[0], f"{block}/conv{k}/bn")
                    h = self.unpool(h) if up and k == 2 else h
                    h = self.conv(h, f"{block}/conv{k}/{size}x{size}_conv")
                x = x[:, : h.shape[1]]
                h = h + (self.unpool(x) if up else x)
            else:
                condition = torch.cat([parts[i], y], 1)
                h = self.conv(
                    self.unpool(self.conditional(h, condition, f"{block}/bn1")), f"{block}/up_conv1"
                )
                h = self.conv(self.conditional(h, condition, f"{block}/bn2"), f"{block}/same_conv2")
                h = h + self.conv(self.unpool(x), f"{block}/up_conv_shortcut")
            if attention == h.shape[-1] and up:
                h = self.attention(h, "generator")
            i += 1
        h = self.norm(h, "generator/final_norm") * self.get("generator/final_norm/gamma").view(-1, 1, 1)
        h = F.relu(h + self.get("generator/final_norm/beta").view(-1, 1, 1))
        return (torch.tanh(self.conv(h, "generator/final_conv")) + 1) / 2

    def discriminator(self, x: Tensor, label: Tensor, deep: bool, attention: int | None) -> Tensor:
        h, i = self.conv(x, "discriminator/initial_conv") if deep else x, 1
        while f"discriminator/B{i}/{'conv1/1x1_conv' if deep else 'same_conv1'}/kernel" in self.v:
            block, x = f"discriminator/B{i}", h
            down = i % 2 == 1 if deep else f"{block}/down_conv2/kernel" in self.v
            if deep:
                for k, size in ((1, 1), (2, 3), (3, 3), (4, 1)):
                    h = F.relu(h)
                    h = F.avg_pool2d(h, 2) if down and k == 4 else h
                    h = self.conv(h, f"{block}/conv{k}/{size}x{size}_conv")
                x = F.avg_pool2d(x, 2) if down else x
                if x.shape[1] < h.shape[1]:
                    x = torch.cat([x, self.conv(x, f"{block}/shortcut/add_channels")], 1)
                h = h + x
            else:
                scale = "down" if down else "same"
                h = self.conv(F.relu(self.conv(F.relu(h), f"{block}/same_conv1")), f"{block}/{scale}_conv2")
                if f"{block}/{scale}_conv_shortcut/kernel" in self.v:
                    x = self.conv(x, f"{block}/{scale}_conv_shortcut")
                    h, x = (F.avg_pool2d(t, 2) if down else t for t in (h, x))
                    h = h + x
                else:
                    h = F.avg_pool2d(h, 2) if down else h
            if attention == h.shape[-1] and (not deep or not down):
                h = self.attention(h, "discriminator")
            i += 1
        h = F.relu(h).sum((2, 3))
        embedded = self.kernel("discriminator/embedding_fc")[label]
        fc = self.get("discriminator/final_fc/bias")
        return (h @ self.kernel("discriminator/final_fc") + fc)[:, 0] + (embedded * h).sum(1)
