"""From a file to images: a seed and a class name one image, and memory does not grow."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gansmith
from gansmith import hardware
from gansmith.errors import UserError
from gansmith.models.biggan import Generator
from gansmith.sampling import latents, sampler
from gansmith.sampling.sampler import Sampler
from gansmith.weights import snapshot

Build = Callable[..., Generator]
Describe = Callable[..., dict[str, Any]]
STORED = {"truncation": 1.0, "kind": "none", "images": 16, "group": 16}


def assert_same_images(a: np.ndarray, b: np.ndarray) -> None:
    """Equal but for rounding: matrix products of other batch sizes sum in another order (1e-6 of the range).

    That moves a pixel value by one level when it lies so close to a rounding edge.
    """
    difference = np.abs(a.astype(int) - b.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_sampling_needs_only_the_file(run_folder: Path) -> None:
    images = gansmith.load(run_folder, device="cpu").sample(2, classes=["cat", 5], truncation=0.5)
    assert images.shape == (4, 32, 32, 3)
    assert images.dtype == np.uint8
    assert images.std() > 20


@pytest.mark.parametrize("micro_batch", [1, 3, 12])
@pytest.mark.parametrize("truncation", [None, 0.5])
def test_a_seed_is_the_same_image_at_any_micro_batch(
    run_folder: Path, micro_batch: int, truncation: float | None
) -> None:
    network = sampler.load(run_folder, device="cpu")
    wanted: dict[str, Any] = {"classes": [0, 3, 4], "truncation": truncation}
    expected = network.sample(4, **wanted, micro_batch=4)
    assert_same_images(network.sample(4, **wanted, micro_batch=micro_batch), expected)
    alone = network.sample(seeds=[2], classes=["a/b c"], truncation=truncation, micro_batch=micro_batch)
    assert_same_images(alone[0], expected[4 + 2])


def test_images_come_class_by_class_in_the_order_of_the_seeds(run_folder: Path) -> None:
    network = sampler.load(run_folder, device="cpu")
    images = network.sample(seeds=[7, 1], classes=["dog", "cat"], micro_batch=3)
    for row, (label, seed) in enumerate([(1, 7), (1, 1), (0, 7), (0, 1)]):
        (image,) = sampler.generate(network.G, latents.from_seeds([seed], dim=8), torch.tensor([label]), 1)
        assert_same_images(images[row], image[0].numpy())
    assert len(np.unique(images.reshape(4, -1), axis=0)) == 4


def test_all_classes_are_the_default(run_folder: Path) -> None:
    network = sampler.load(run_folder, device="cpu")
    assert_same_images(network.sample(1), network.sample(1, classes=range(6)))
    assert len(network.sample(1)) == 6


def test_truncations_do_not_disturb_each_other(run_folder: Path) -> None:
    network = sampler.load(run_folder, device="cpu")
    full = network.sample(3, classes=[0], micro_batch=3)
    half = network.sample(3, classes=[0], micro_batch=3, truncation=0.5)
    scaled = network.sample(3, classes=[0], micro_batch=3, truncation=0.5, truncation_kind="scale")
    assert not np.array_equal(full, half)
    assert not np.array_equal(half, scaled)
    # Two lazy iterators in turn, then the file's own statistics once more.
    first, second = network.images(3, classes=[0]), network.images(3, classes=[0], truncation=0.5)
    assert np.array_equal(next(second), half)
    assert np.array_equal(next(first), full)
    assert np.array_equal(network.sample(3, classes=[0], truncation=0.5), half)


def test_stored_statistics_are_used_as_they_are(run_folder: Path) -> None:
    network = sampler.load(run_folder, device="cpu")
    before = {name: value.clone() for name, value in network.G.state_dict().items()}
    network.sample(2)
    assert all(torch.equal(value, before[name]) for name, value in network.G.state_dict().items())


def test_missing_statistics_are_estimated_saying_so(run_folder: Path) -> None:
    checkpoint = run_folder / "checkpoints/000000003000"
    before = (checkpoint / "G_ema.safetensors").read_bytes()
    with pytest.warns(UserWarning, match="no standing statistics"):
        one = sampler.load(checkpoint, device="cpu").sample(2, classes=[0])
    with pytest.warns(UserWarning, match="no standing statistics"):
        two = sampler.load(checkpoint, device="cpu").sample(2, classes=[0])
    assert np.array_equal(one, two)
    assert (checkpoint / "G_ema.safetensors").read_bytes() == before


def test_sampling_leaves_global_random_state_alone(run_folder: Path) -> None:
    before = torch.get_rng_state()
    sampler.load(run_folder, device="cpu").sample(2, truncation=0.7)
    assert torch.equal(before, torch.get_rng_state())


def test_to_uint8_inverts_the_feed() -> None:
    levels = torch.arange(256, dtype=torch.float32)
    images = (levels / 127.5 - 1).reshape(1, 1, 16, 16)
    assert sampler.to_uint8(images).flatten().tolist() == list(range(256))
    assert sampler.to_uint8(torch.tensor([[[[-3.0, 3.0]]]])).flatten().tolist() == [0, 255]


def test_generate_is_lazy_and_refuses_train_mode(build: Build) -> None:
    G = build()
    batches = sampler.generate(G, torch.randn(5, 8), torch.zeros(5, dtype=torch.long), 2)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    with pytest.raises(AssertionError, match="eval"):
        next(sampler.generate(G.train(), torch.randn(1, 8), torch.tensor([0]), 1))


def test_bf16_stays_near_fp32(run_folder: Path) -> None:
    exact = sampler.load(run_folder, device="cpu").sample(2, classes=[0])
    rough = sampler.load(run_folder, device="cpu", precision="bf16").sample(2, classes=[0])
    assert not np.array_equal(exact, rough)
    assert np.abs(exact.astype(float) - rough).mean() < 4  # bf16 keeps 8 bits, over a dozen layers


def test_auto_precision_is_exact_on_a_cpu(run_folder: Path) -> None:
    assert sampler.load(run_folder, device="cpu", precision="auto").autocast_dtype is None


@pytest.mark.parametrize("family", ["biggan", "biggan-deep"])
@pytest.mark.parametrize("channels", [1, 3])
def test_unconditional_and_grayscale_networks(
    build: Build, describe: Describe, family: str, channels: int
) -> None:
    G = build(num_classes=0, channels=channels, family=family)
    network = Sampler(G, describe(0, statistics=STORED))
    assert network.sample(3).shape == (3, 32, 32, channels)
    with pytest.raises(UserError, match="no classes"):
        network.sample(1, classes=["cat"])


def test_classes_are_found_by_name_and_by_id(run_folder: Path) -> None:
    network = sampler.load(run_folder, device="cpu")
    assert network.class_ids(["犬", "0", 3, "hot dog, red hot"]) == [5, 0, 3, 2]
    assert network.class_ids(None) == [0, 1, 2, 3, 4, 5]


def test_a_name_wins_over_an_id(build: Build, describe: Describe) -> None:
    digits = [{"id": i, "name": str(9 - i), "count": 1} for i in range(6)]
    network = Sampler(build(), describe(classes=digits, statistics=STORED))
    assert network.class_ids(["5"]) == [4]  # the class called 5
    assert network.class_ids([5]) == [5]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["dgo"], "nearest: dog"),
        (["Cat"], "nearest: cat"),
        (["6"], "neither a class name nor an id below 6"),
        ([-1], "neither"),
        (["zebra"], "there are cat, dog"),
        (["cat", "0"], "named twice"),
        ([], "empty"),
    ],
)
def test_wrong_classes_are_refused_naming_the_nearest(
    run_folder: Path, classes: list[str | int], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        sampler.load(run_folder, device="cpu").sample(1, classes=classes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either"),
        ({"n": 1, "seeds": [1]}, "either"),
        ({"n": 0}, "at least 1"),
        ({"seeds": []}, "at least 1"),
        ({"n": 1, "micro_batch": 0}, "at least 1"),
        ({"n": 1, "truncation": -1.0}, "above 0"),
        ({"n": 1, "truncation": 1.0, "truncation_kind": "clip"}, "choose resample"),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(
    run_folder: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        sampler.load(run_folder, device="cpu").images(**arguments)


@pytest.mark.parametrize(("device", "precision"), [("tpu9", "fp32"), ("cuda:77", "fp32"), ("cpu", "fp8")])
def test_unknown_devices_and_precisions_are_refused(run_folder: Path, device: str, precision: str) -> None:
    if device == "cuda:77" and torch.accelerator.is_available():
        pytest.skip("has an accelerator")
    with pytest.raises(UserError, match=r"--device|--precision"):
        sampler.load(run_folder, device=device, precision=precision)


def test_a_device_number_too_high_is_refused_with_their_count(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_, **__: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    with pytest.raises(UserError, match=r"--device cuda:9 is not here: this machine has 2 of them \(0 … 1\)"):
        sampler.load(run_folder, device="cuda:9")
    with pytest.raises(UserError, match="--device xpu is not here: this machine has only cuda and cpu"):
        sampler.load(run_folder, device="xpu")


def test_sampling_in_fp32_is_not_tf32(run_folder: Path) -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        hardware.set_tf32(True)
        sampler.load(run_folder, device="cpu")
        assert not torch.backends.cudnn.allow_tf32  # torch's own default is True
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_a_thousand_classes_at_micro_batch_one(build: Build, describe: Describe) -> None:
    network = Sampler(build(num_classes=1000, ch=1, attention=()), describe(1000, statistics=STORED))
    count = 0
    for batch in network.images(1, micro_batch=1):
        assert batch.shape == (1, 32, 32, 3)
        count += 1
    assert count == 1000


def test_memory_does_not_grow_with_the_number_of_images(
    build: Build, describe: Describe, tmp_path: Path
) -> None:
    snapshot.save(tmp_path / "tiny.safetensors", build(ch=1, attention=()), info=describe(statistics=STORED))
    code = (
        "import resource, sys, gansmith, pathlib; from gansmith.sampling import export\n"
        "s, n = gansmith.load(sys.argv[1], device='cpu'), int(sys.argv[3])\n"
        "batches = s.images(n, classes=[0], micro_batch=32)\n"
        "export.to_npz(pathlib.Path(sys.argv[2]), batches, shape=(n, 32, 32, 3), seeds=range(n))\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(peak * (1 if sys.platform == 'darwin' else 1024))\n"
    )
    peaks = []
    for n in (128, 4096):  # 0.4 MB and 12.6 MB of pixels
        command = [
            sys.executable,
            "-c",
            code,
            str(tmp_path / "tiny.safetensors"),
            str(tmp_path / f"{n}.npz"),
            str(n),
        ]
        peaks.append(int(subprocess.run(command, capture_output=True, check=True, text=True).stdout))
    assert peaks[1] - peaks[0] < 5e6
