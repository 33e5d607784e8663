"""The Inception network of the FID: the graph of TensorFlow's `2015-12-05` release, 1008 logits.

State-dict names are those of `pt_inception-2015-12-05-6726825d.pth`. It differs from the usual Inception v3
in its pooling: averages leave the padding out, and the last block takes a maximum instead. BatchNorm is
folded into the convolutions when the weights are read.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gansmith.errors import UserError
from gansmith.evaluation.features import inception_weights, weights
from gansmith.evaluation.features.base import FeatureNetwork, frozen
from gansmith.evaluation.features.resizing import antialiased_bicubic, tf1_bilinear

RESIZERS = {"tf1": tf1_bilinear, "clean": antialiased_bicubic}
NUM_LOGITS = 1008
BN_EPS = 1e-3

Kernel = int | tuple[int, int]
# One step of a branch: a convolution (name, outputs, kernel) of stride 1 and equal size, or with a fourth
# entry of that stride and no padding; several side by side, as a list; or a 3×3 pooling.
Step = tuple[str, int, Kernel] | tuple[str, int, Kernel, int] | list | str
Branches = list[list[Step]]


def _block_a(pooled: int) -> Branches:
    return [
        [("branch1x1", 64, 1)],
        [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
        ["mean", ("branch_pool", pooled, 1)],
    ]


def _block_c(hidden: int) -> Branches:
    row, column = (1, 7), (7, 1)
    return [
        [("branch1x1", 192, 1)],
        [("branch7x7_1", hidden, 1), ("branch7x7_2", hidden, row), ("branch7x7_3", 192, column)],
        [
            ("branch7x7dbl_1", hidden, 1),
            ("branch7x7dbl_2", hidden, column),
            ("branch7x7dbl_3", hidden, row),
            ("branch7x7dbl_4", hidden, column),
            ("branch7x7dbl_5", 192, row),
        ],
        ["mean", ("branch_pool", 192, 1)],
    ]


def _block_e(pooling: str) -> Branches:
    row, column = (1, 3), (3, 1)
    return [
        [("branch1x1", 320, 1)],
        [("branch3x3_1", 384, 1), [("branch3x3_2a", 384, row), ("branch3x3_2b", 384, column)]],
        [
            ("branch3x3dbl_1", 448, 1),
            ("branch3x3dbl_2", 384, 3),
            [("branch3x3dbl_3a", 384, row), ("branch3x3dbl_3b", 384, column)],
        ],
        [pooling, ("branch_pool", 192, 1)],
    ]


_BLOCK_B: Branches = [
    [("branch3x3", 384, 3, 2)],
    [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3, 2)],
    ["halve"],
]
_BLOCK_D: Branches = [
    [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3, 2)],
    [
        ("branch7x7x3_1", 192, 1),
        ("branch7x7x3_2", 192, (1, 7)),
        ("branch7x7x3_3", 192, (7, 1)),
        ("branch7x7x3_4", 192, 3, 2),
    ],
    ["halve"],
]
# Name → inputs and branches, in order.
_BLOCKS: dict[str, tuple[int, Branches]] = {
    "Mixed_5b": (192, _block_a(32)),
    "Mixed_5c": (256, _block_a(64)),
    "Mixed_5d": (288, _block_a(64)),
    "Mixed_6a": (288, _BLOCK_B),
    "Mixed_6b": (768, _block_c(128)),
    "Mixed_6c": (768, _block_c(160)),
    "Mixed_6d": (768, _block_c(160)),
    "Mixed_6e": (768, _block_c(192)),
    "Mixed_7a": (768, _BLOCK_D),
    "Mixed_7b": (1280, _block_e("mean")),
    "Mixed_7c": (2048, _block_e("max")),
}
_POOLINGS = {
    "mean": lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    "max": lambda x: F.max_pool2d(x, 3, 1, 1),
    "halve": lambda x: F.max_pool2d(x, 3, 2),
}


class _Conv(nn.Module):
    """A convolution with its BatchNorm, then a ReLU; `fold` makes one convolution of the two."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, padded: bool = True
    ) -> None:
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if padded else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
        self.bn: nn.Module | None = nn.BatchNorm2d(outputs, eps=BN_EPS)

    def fold(self) -> None:
        bn = self.bn
        assert isinstance(bn, nn.BatchNorm2d)
        assert bn.running_var is not None
        assert bn.running_mean is not None
        scale = bn.weight.double() / (bn.running_var.double() + bn.eps).sqrt()
        bias = bn.bias.double() - bn.running_mean.double() * scale
        self.conv.weight = nn.Parameter((self.conv.weight.double() * scale[:, None, None, None]).float())
        self.conv.bias = nn.Parameter(bias.float())
        self.bn = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.relu_(x if self.bn is None else self.bn(x))


class _Mixed(nn.Module):
    """Branches side by side, their outputs concatenated in order."""

    def __init__(self, inputs: int, branches: Branches) -> None:
        super().__init__()
        self.branches = branches
        for branch in branches:
            width = inputs
            for step in branch:
                for name, outputs, kernel, *stride in _convolutions(step):
                    conv = _Conv(width, outputs, kernel, stride[0] if stride else 1, not stride)
                    self.add_module(name, conv)
                width = outputs if not isinstance(step, str) else width

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._follow(branch, x) for branch in self.branches], 1)

    def _follow(self, branch: list[Step], x: Tensor) -> Tensor:
        for step in branch:
            if isinstance(step, str):
                x = _POOLINGS[step](x)
            else:
                side_by_side = [self.get_submodule(name)(x) for name, *_ in _convolutions(step)]
                x = side_by_side[0] if len(side_by_side) == 1 else torch.cat(side_by_side, 1)
        return x


def _convolutions(step: Step) -> Sequence[Any]:
    if isinstance(step, str):
        return []
    return step if isinstance(step, list) else [step]


class Network(nn.Module):
    """The graph. In: float32 (N, 3, 299, 299) in [−1, 1). See `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, 2, padded=False)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3, padded=False)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3, padded=False)
        for name, (inputs, branches) in _BLOCKS.items():
            self.add_module(name, _Mixed(inputs, branches))
        self.fc = nn.Linear(2048, NUM_LOGITS)

    def fold(self) -> None:
        """Folds every BatchNorm into its convolution: the same map, computed in one pass."""
        for module in self.modules():
            if isinstance(module, _Conv):
                module.fold()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Spatial means after the first, second and sixth stage and at the end, (N, 64), (N, 192), (N, 768),
        (N, 2048), under these numbers; `logits_unbiased` and `logits` (N, 1008): without and with fc's bias.
        """
        means = {}
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, 2)
        means["64"] = x.mean((2, 3))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, 2)
        means["192"] = x.mean((2, 3))
        for name in _BLOCKS:
            x = self.get_submodule(name)(x)
            if name == "Mixed_6e":
                means["768"] = x.mean((2, 3))
        means["2048"] = x.mean((2, 3))
        means["logits_unbiased"] = F.linear(means["2048"], self.fc.weight)
        means["logits"] = means["logits_unbiased"] + self.fc.bias
        return means


class Inception(FeatureNetwork):
    """The FID network with its resizing. Features: the last spatial mean, 2048. Logits: all 1008, without the
    bias, as the Inception Score's own code takes them.

    state: state dict with the published names. resizer: tf1 | clean. sha256: of the file it came from; only
    the published one's makes the distance an FID. Raises UserError for a state of another network.
    """

    name = "inception"
    dim = 2048
    num_logits = NUM_LOGITS
    resolution = 299

    def __init__(
        self,
        state: dict[str, Tensor],
        resizer: str,
        device: torch.device,
        sha256: str,
        source: str = "weights",
    ) -> None:
        self.resizer, self.device, self.weights_sha256 = resizer, device, sha256
        self.frechet_name = "FID" if sha256.startswith(inception_weights.SHA256) else "FD-Inception"
        net = _filled(state, source)
        net.fold()
        self.net: Network = frozen(net, device)

    def activations(self, images: Tensor) -> dict[str, Tensor]:
        """All that `Network.forward` returns, for uint8 (N, 3, H, W) on the device."""
        x = RESIZERS[self.resizer](images, self.resolution).sub_(128).div_(128)
        return self.net(x.contiguous(memory_format=torch.channels_last))

    def _compute(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.activations(images)
        return found["2048"], found["logits_unbiased"]

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "logits": "1008, without bias"}


def load(given: Path | None, resizer: str, device: torch.device) -> Inception:
    """The published network from a file, $GANSMITH_INCEPTION, the cache or the official address.

    Raises UserError for weights that are missing, cut short or not the published ones.
    """
    file = inception_weights.find(given)
    content, digest = weights.read(file, "the Inception weights")
    inception_weights.check(file, digest, given)
    return Inception(weights.state_dict(content, file), resizer, device, digest, str(file))


def _filled(state: dict[str, Tensor], source: str) -> Network:
    """The network with these weights, strictly; BatchNorm's step counters may be there or not."""
    with torch.device("meta"):  # no memory and no random numbers for an initialisation that is overwritten
        net = Network()
    counters = {key for key in net.state_dict() if key.endswith("num_batches_tracked")}
    expected = {key: value for key, value in net.state_dict().items() if key not in counters}
    found = {key: value for key, value in state.items() if key not in counters}
    problems = [f"{key} is missing" for key in sorted(expected.keys() - found.keys())]
    problems += [f"{key} is unknown" for key in sorted(found.keys() - expected.keys())]
    problems += [
        f"{key} is {tuple(found[key].shape)}, not {tuple(value.shape)}"
        for key, value in expected.items()
        if key in found and found[key].shape != value.shape
    ]
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{source} is not the FID Inception network: {'; '.join(problems[:3])}{more}.")
    steps = dict.fromkeys(counters, torch.zeros((), dtype=torch.int64))
    net.load_state_dict({key: value.float() for key, value in found.items()} | steps, assign=True)
    return net
