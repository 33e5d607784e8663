"""The BigGAN step as the published PyTorch code does it: the yardstick of `step.py`, written fresh.

Contiguous float32 tensors, one power iteration inside every forward pass (gradient through σ), and a G phase
whose backward also computes the gradients of D's weights. Parameter names are those of gansmith's networks,
so that both start from the same weights.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Widths (× ch) from the 4×4 map to the image, and from the image to the last map.
GENERATOR = {32: (4, 4, 4, 4), 64: (16, 16, 8, 4, 2), 128: (16, 16, 8, 4, 2, 1)}
DISCRIMINATOR = {32: (4, 4, 4, 4), 64: (1, 2, 4, 8, 16), 128: (1, 2, 4, 8, 16, 16)}
HALVINGS = {32: 2, 64: 4, 128: 5}


class SpectralWeight(nn.Module):
    def __init__(self, *shape: int, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        self.register_buffer("u", torch.randn(shape[0]))

    def normalized(self) -> Tensor:
        W = self.weight.view(len(self.weight), -1)
        with torch.no_grad():
            v = F.normalize(self.u @ W, dim=0, eps=1e-6)
            u = F.normalize(W @ v, dim=0, eps=1e-6)
            if self.training:
                self.u.copy_(u)
        sigma = torch.dot(u, W @ v)
        return self.weight / sigma


class Conv(SpectralWeight):
    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(outputs, inputs, kernel, kernel)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.normalized(), self.bias, padding=self.weight.shape[-1] // 2)


class Linear(SpectralWeight):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(outputs, inputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalized(), self.bias)


class Embed(SpectralWeight):
    def __init__(self, classes: int, dim: int) -> None:
        super().__init__(classes, dim, bias=False)

    def forward(self, y: Tensor) -> Tensor:
        return F.embedding(y, self.normalized())


class ClassBatchNorm(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.gain, self.bias = nn.Embedding(classes, channels), nn.Embedding(classes, channels)
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        gain, bias = (1 + self.gain(y))[:, :, None, None], self.bias(y)[:, :, None, None]
        return F.batch_norm(x, self.stored_mean, self.stored_var, training=self.training) * gain + bias


class PlainBatchNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.stored_mean, self.stored_var, self.gain, self.bias, self.training)


class GeneratorBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = Conv(inputs, outputs, 3), Conv(outputs, outputs, 3)
        self.conv_sc = Conv(inputs, outputs, 1)
        self.bn1, self.bn2 = ClassBatchNorm(inputs, classes), ClassBatchNorm(outputs, classes)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = F.interpolate(F.relu_(self.bn1(x, y)), scale_factor=2)
        x = F.interpolate(x, scale_factor=2)
        h = self.conv2(F.relu_(self.bn2(self.conv1(h), y)))
        return h + self.conv_sc(x)


class Generator(nn.Module):
    """No shared embedding, no skip-z, no attention: at 32 px the published CIFAR-10 setting."""

    def __init__(self, *, num_classes: int, ch: int, dim_z: int, resolution: int = 32) -> None:
        super().__init__()
        widths = [ch * m for m in GENERATOR[resolution]]
        self.linear = Linear(dim_z, widths[0] * 16)
        self.blocks = nn.ModuleList(
            nn.ModuleList([GeneratorBlock(inputs, outputs, num_classes)])
            for inputs, outputs in itertools.pairwise(widths)
        )
        last = widths[-1]
        self.output_layer = nn.Sequential(PlainBatchNorm(last), nn.ReLU(inplace=True), Conv(last, 3, 3))

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        h = self.linear(z).view(len(z), -1, 4, 4)
        for (block,) in self.blocks:
            h = block(h, y)
        return torch.tanh(self.output_layer(h))


class DiscriminatorBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, first: bool, down: bool) -> None:
        super().__init__()
        self.first, self.down = first, down
        self.conv1, self.conv2 = Conv(inputs, outputs, 3), Conv(outputs, outputs, 3)
        self.conv_sc = Conv(inputs, outputs, 1) if down or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu_(self.conv1(x if self.first else F.relu(x))))
        if self.first:
            return F.avg_pool2d(h, 2) + self.conv_sc(F.avg_pool2d(x, 2))
        shortcut = x if self.conv_sc is None else self.conv_sc(x)
        return F.avg_pool2d(h, 2) + F.avg_pool2d(shortcut, 2) if self.down else h + shortcut


class Discriminator(nn.Module):
    def __init__(self, *, num_classes: int, ch: int, resolution: int = 32) -> None:
        super().__init__()
        widths = [ch * m for m in DISCRIMINATOR[resolution]]
        self.blocks = nn.ModuleList(
            nn.ModuleList([DiscriminatorBlock(inputs, outputs, first=i == 0, down=i < HALVINGS[resolution])])
            for i, (inputs, outputs) in enumerate(zip([3, *widths], widths))
        )
        self.linear, self.embed = Linear(widths[-1], 1), Embed(num_classes, widths[-1])

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        h = x
        for (block,) in self.blocks:
            h = block(h)
        h = F.relu(h).sum((2, 3))
        return self.linear(h).squeeze(1) + (self.embed(y) * h).sum(1)


class Step:
    """One D update on real and fake images in one batch, then one G update; Adam as for CIFAR-10."""

    def __init__(self, G: nn.Module, D: nn.Module) -> None:
        self.G, self.D = G.train(), D.train()
        self.adam_g = torch.optim.Adam(G.parameters(), lr=2e-4, betas=(0.0, 0.999), eps=1e-6)
        self.adam_d = torch.optim.Adam(D.parameters(), lr=2e-4, betas=(0.0, 0.999), eps=1e-6)

    def __call__(
        self, real: Tensor, y: Tensor, z: list[Tensor], classes: list[Tensor]
    ) -> tuple[float, float]:
        """real (N, 3, R, R); z and classes: one entry for the D phase, one for the G phase -> losses of D
        and G.
        """
        self.adam_d.zero_grad()
        self.adam_g.zero_grad()
        with torch.no_grad():
            fake = self.G(z[0], classes[0])
        logits = self.D(torch.cat([fake, real]), torch.cat([classes[0], y]))
        on_fake, on_real = logits.chunk(2)
        loss_d = F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
        loss_d.backward()
        self.adam_d.step()

        self.adam_d.zero_grad()
        self.adam_g.zero_grad()
        loss_g = -self.D(self.G(z[1], classes[1]), classes[1]).mean()
        loss_g.backward()
        self.adam_g.step()
        return loss_d.item(), loss_g.item()
