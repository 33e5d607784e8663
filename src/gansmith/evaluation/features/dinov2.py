"""DINOv2 as a feature network (Stein et al. 2023, FD-DINOv2), through `transformers`.

ViT-L/14 from the Hugging Face hub, or any DINOv2 in a local folder. Preprocessing: antialiased bicubic to
224×224 (not rounded), / 255, ImageNet mean and standard deviation. Features: the class token after the last
LayerNorm. Only safetensors are read.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from gansmith import files
from gansmith.errors import UserError
from gansmith.evaluation.features.base import FeatureNetwork
from gansmith.evaluation.features.resizing import antialiased_bicubic, imagenet_normalized

HUB = "facebook/dinov2-large"
MISSING = "--features dinov2 needs transformers: `pip install 'gansmith[dinov2]'`."
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "patch_size": 14}


class DINOv2(FeatureNetwork):
    """No logits; dim is the network's width (1024 for ViT-L). Another size than ViT-L/14 says so in its name.

    folder: config.json and model.safetensors as `save_pretrained` writes them; None is the hub's ViT-L/14.
    Raises UserError when the package, the files or the network are missing.
    """

    name = "dinov2"
    resizer = "bicubic, antialiased"
    resolution = 224

    def __init__(self, folder: Path | None, device: torch.device, precision: str) -> None:
        try:
            import transformers
        except ImportError:
            raise UserError(MISSING) from None
        self.device, self.precision = device, precision
        folder = _from_hub() if folder is None else folder
        config = _config(folder)
        try:
            loaded: Any = transformers.Dinov2Model.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UserError(
                f"--weights {folder}: transformers cannot load it: {_first_line(error)}"
            ) from None
        net, report = loaded
        if missing := sorted(report["missing_keys"]):  # transformers draws these at random
            raise UserError(f"--weights {folder}: model.safetensors lacks {missing[0]} and maybe more.")
        self.net: Any = net.eval().requires_grad_(False).to(device)
        self.dim = net.config.hidden_size
        self.weights_sha256 = files.sha256(folder / "model.safetensors")
        size = {key: config.get(key) for key in LARGE}
        self.frechet_name = "FD-DINOv2" if size == LARGE else f"FD-DINOv2-{self.dim}"

    def _compute(self, images: Tensor) -> tuple[Tensor, None]:
        x = imagenet_normalized(antialiased_bicubic(images, self.resolution))
        return self.net(pixel_values=x).pooler_output, None


def _config(folder: Path) -> dict[str, Any]:
    """The description of a local DINOv2 folder, with its weights beside it."""
    try:
        config = json.loads((folder / "config.json").read_text())
        (folder / "model.safetensors").stat()
    except (OSError, ValueError) as error:
        raise UserError(
            f"--weights {folder}: for dinov2 a folder with config.json and model.safetensors is needed "
            f"({_first_line(error)}); `save_pretrained` of transformers writes one."
        ) from None
    if not isinstance(config, dict) or config.get("model_type") != "dinov2":
        found = config.get("model_type") if isinstance(config, dict) else "no network"
        raise UserError(f"--weights {folder} holds {found}, not dinov2; give a DINOv2 folder.")
    return config


def _from_hub() -> Path:
    """The hub's ViT-L/14: from its cache, else downloaded (1.2 GB)."""
    from huggingface_hub import snapshot_download

    wanted = ["config.json", "model.safetensors"]
    try:
        return Path(snapshot_download(HUB, allow_patterns=wanted))
    except Exception as error:  # the hub's library and its transport raise dozens of kinds
        raise UserError(
            f"--features dinov2: {HUB} cannot be had from the Hugging Face hub ({_first_line(error)}). "
            "Copy its config.json and model.safetensors (1.2 GB) into a folder and give --weights FOLDER; or "
            "use `--features effnet-lite0`, which needs no download."
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
