"""The user's own feature networks: a classifier of their images, a TorchScript file, a Python function.

TorchScript files and functions get uint8 (N, 3, H, W) at the images' own size and return features (N, dim),
or features and logits. Both are programs: a TorchScript file runs when it is used (its tensors are read
without Python's pickle, but it is code), so use files you trust.
"""

import hashlib
import importlib
import inspect
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gansmith import files
from gansmith.errors import UserError
from gansmith.evaluation import classifier
from gansmith.evaluation.features.base import FeatureNetwork, frozen

PROBE = (2, 3, 64, 64)


class ClassifierFeatures(FeatureNetwork):
    """A classifier of `gansmith eval train-classifier`: features before its last layer, logits its classes.

    Images of another size come to the classifier's by antialiased bicubic; colour is averaged for a grey one.
    Raises UserError for a file that is missing, damaged or no classifier.
    """

    frechet_name = "FD-classifier"
    resizer = "bicubic, antialiased"

    def __init__(self, file: Path, device: torch.device, precision: str) -> None:
        self.name, self.device, self.precision = f"classifier:{file.name}", device, precision
        net, self.info = classifier.load(file)
        self.net: classifier.Classifier = frozen(net, device)
        self.weights_sha256 = files.sha256(file)
        self.dim, self.num_logits = self.net.dim, self.net.num_classes
        self.class_names = self.info["classes"]
        self.resolution = self.net.resolution

    def _compute(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.net.features_and_logits(classifier.as_input(images, self.net))

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "held_out_accuracy": self.info["accuracy"]}


class _Program(FeatureNetwork):
    """Code of the user's that maps images to features."""

    resizer = "its own"
    takes_floats = False

    def __init__(self, program: Callable[[Tensor], Any], device: torch.device) -> None:
        self.program, self.device = program, device
        self.dim, self._fingerprint = 1, ""
        features, logits = self._probe()
        self.dim = features.shape[1]
        self.num_logits = None if logits is None else logits.shape[1]
        found = [features.float().cpu()] + ([] if logits is None else [logits.float().cpu()])
        self._fingerprint = hashlib.sha256(b"".join(t.numpy().tobytes() for t in found)).hexdigest()

    def _compute(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        try:
            answer = self.program(images.contiguous())
        except UserError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()[-1:] or [""]
            raise UserError(
                f"--features {self.name}: it failed on uint8 images {tuple(images.shape)}: "
                f"{type(error).__name__}: {reason[0].strip()}"
            ) from error
        features, logits = answer if isinstance(answer, tuple | list) and len(answer) == 2 else (answer, None)
        for what, tensor in (("features", features), ("logits", logits)):
            good = isinstance(tensor, Tensor) and tensor.ndim == 2 and len(tensor) == len(images)
            if not (good or (what == "logits" and tensor is None)):
                found = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
                raise UserError(
                    f"--features {self.name}: {what} must be a tensor ({len(images)}, size) for "
                    f"{len(images)} images, not {found}."
                )
        return features, logits

    @torch.no_grad()
    def _probe(self) -> tuple[Tensor, Tensor | None]:
        ramp = torch.arange(torch.Size(PROBE).numel(), device=self.device) * 37 % 251
        return self._compute(ramp.to(torch.uint8).view(PROBE))

    def cache_identity(self) -> dict[str, Any]:
        # A function's weights may change where its source does not: what it answers tells.
        return {**self.describe(), "answer_to_probe": self._fingerprint}


class TorchScript(_Program):
    """A TorchScript file (`torch.jit.save`), its Fréchet distance named after it."""

    def __init__(self, file: Path, device: torch.device) -> None:
        self.name, self.frechet_name = str(file), f"FD-{file.stem}"
        if not file.is_file():
            raise UserError(f"--features {file}: no such file; give a TorchScript file, or a name.")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # files outlive the format's favour
                program = torch.jit.load(file, map_location=device).eval()
        except RuntimeError as error:
            raise UserError(
                f"--features {file} is no TorchScript file ({str(error).strip().splitlines()[0]}); save one "
                "with torch.jit.save(torch.jit.trace(network, images), FILE)."
            ) from None
        self.weights_sha256 = files.sha256(file)
        super().__init__(program, device)
        self.name = file.name  # the protocol does not depend on where it lies


class Function(_Program):
    """MODULE:FUNCTION, importable from the current folder or installed. weights_sha256: of the source."""

    def __init__(self, spec: str, device: torch.device) -> None:
        module_name, _, function_name = spec.partition(":")
        self.name, self.frechet_name = spec, f"FD-{function_name}"
        function = _imported(spec, module_name, function_name)
        try:
            source = Path(inspect.getsourcefile(function) or "")
        except TypeError:  # an object with __call__
            source = Path(inspect.getsourcefile(type(function)) or "")
        self.weights_sha256 = files.sha256(source) if source.is_file() else ""
        super().__init__(function, device)


def _imported(spec: str, module_name: str, function_name: str) -> Callable[[Tensor], Any]:
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(
            f"--features {spec}: {module_name} cannot be imported ({error}); write MODULE:FUNCTION with a "
            f"module that is installed or lies in {here}."
        ) from None
    except ValueError:
        raise UserError(f"--features {spec}: write MODULE:FUNCTION, such as my_features:embed.") from None
    finally:
        sys.path.remove(here)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(f"--features {spec}: {module_name} has no function {function_name!r}.")
    return function
