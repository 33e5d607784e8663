"""Stored features of a data set: equal to computed ones, found again, never taken when damaged."""

import json
import multiprocessing
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gansmith.data.codecs import encode
from gansmith.data.shards import Dataset, ShardWriter, open_prepared
from gansmith.errors import UserError
from gansmith.evaluation import reference
from gansmith.evaluation.features.base import FeatureNetwork
from gansmith.evaluation.reference import entry_folder, is_cached, reference_features

N = 23


class Means(FeatureNetwork):
    """Mean colours, with logits; counts the images it has seen and can be told to fail."""

    name, frechet_name, dim, num_logits, resizer = "means", "FD-means", 3, 2, "none"

    def __init__(self, factor: float = 1.0, fail_after: int | None = None) -> None:
        self.factor, self.fail_after, self.seen = factor, fail_after, 0
        self.weights_sha256 = str(factor)

    def _compute(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.fail_after is not None and self.seen >= self.fail_after:
            raise KeyboardInterrupt
        self.seen += len(images)
        means = images.float().mean((2, 3)) * self.factor
        return means, means[:, :2] + 1


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "CHUNK", 5)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[int], Dataset]:
    """write(seed) → a prepared set of 23 images of 6×4 in three classes, sorted by class."""

    def make(seed: int = 0) -> Dataset:
        images = np.random.default_rng(seed).integers(0, 256, (N, 6, 4, 3), dtype=np.uint8)
        writer = ShardWriter(tmp_path / f"data-{seed}")
        for number, image in enumerate(images):
            writer.add(f"{number:04d}", number * 3 // N, *encode(image, "raw"))
        writer.close(
            resolution=(6, 4),
            channels=3,
            storage="raw",
            class_names=["a", "b", "c"],
            settings={},
            source="made up",
        )
        return open_prepared(tmp_path / f"data-{seed}", in_memory=False)

    return make


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def exact(dataset: Dataset) -> np.ndarray:
    return dataset.read(np.arange(N)).mean((1, 2), dtype=np.float64)


def test_features_are_those_of_the_images_in_order(write: Callable, cache: Path) -> None:
    dataset, network, told = write(0), Means(), []
    found = reference_features(
        dataset, network, cache_dir=cache, progress=lambda done, total: told.append((done, total))
    )
    assert np.abs(found.features - exact(dataset)).max() < 1e-4
    assert np.array_equal(found.logits, found.features[:, :2] + 1)
    assert np.array_equal(found.labels, dataset.labels)
    assert (found.num_classes, found.class_names) == (3, ["a", "b", "c"])
    assert told == [(5, N), (10, N), (15, N), (20, N), (N, N)]
    assert not found.features.flags.writeable


def test_a_second_time_nothing_is_computed(write: Callable, cache: Path) -> None:
    dataset, network = write(0), Means()
    assert not is_cached(dataset, network, cache_dir=cache)
    first = reference_features(dataset, network, cache_dir=cache)
    assert is_cached(dataset, network, cache_dir=cache)
    again = reference_features(write_again(dataset), network, cache_dir=cache)
    assert network.seen == N
    assert np.array_equal(first.features, again.features)
    assert np.array_equal(first.logits, again.logits)


def write_again(dataset: Dataset) -> Dataset:
    return open_prepared(dataset.path, in_memory=False)


def test_other_images_networks_and_numbers_are_other_entries(write: Callable, cache: Path) -> None:
    first, second = write(0), write(1)
    folders = {
        entry_folder(first, Means(), None, cache),
        entry_folder(second, Means(), None, cache),
        entry_folder(first, Means(2.0), None, cache),
        entry_folder(first, Means(), 7, cache),
        entry_folder(first, Means(), 8, cache),
    }
    assert len(folders) == 5
    assert entry_folder(first, Means(), N, cache) == entry_folder(first, Means(), None, cache)


def test_a_part_is_a_fixed_draw_of_all_classes(write: Callable, cache: Path) -> None:
    dataset = write(0)
    found = reference_features(dataset, Means(), num=12, cache_dir=cache)
    chosen = reference.chosen(dataset, 12)
    assert np.array_equal(chosen, reference.chosen(dataset, 12))
    assert len(set(chosen)) == len(found) == 12
    assert set(found.labels) == {0, 1, 2}
    assert np.abs(found.features - exact(dataset)[chosen]).max() < 1e-4


@pytest.mark.parametrize("num", [0, -1, N + 1])
def test_more_images_than_there_are(write: Callable, cache: Path, num: int) -> None:
    with pytest.raises(UserError, match=f"--num-real {num}: .* has 23 images; choose 1 to 23"):
        reference_features(write(0), Means(), num=num, cache_dir=cache)


def _truncate(entry: Path) -> None:
    file = entry / "features.f32"
    file.write_bytes(file.read_bytes()[:-12])


def _flip(entry: Path) -> None:
    content = bytearray((entry / "logits.f32").read_bytes())
    content[20] ^= 1
    (entry / "logits.f32").write_bytes(content)


def _lose(entry: Path) -> None:
    (entry / "features.f32").unlink()


def _garble(entry: Path) -> None:
    (entry / "complete.json").write_text("{")


def _foreign(entry: Path) -> None:
    about = json.loads((entry / "complete.json").read_text())
    about["identity"]["content_hash"] = "of other images"
    (entry / "complete.json").write_text(json.dumps(about))


@pytest.mark.parametrize("damage", [_truncate, _flip, _lose, _garble, _foreign])
def test_a_damaged_or_foreign_entry_is_computed_again(
    write: Callable, cache: Path, damage: Callable[[Path], None]
) -> None:
    dataset, network = write(0), Means()
    right = np.array(reference_features(dataset, network, cache_dir=cache).features)
    damage(entry_folder(dataset, network, None, cache))
    with pytest.warns(UserWarning, match="stored features cannot be used .* computed again"):
        found = reference_features(dataset, network, cache_dir=cache)
    assert np.array_equal(found.features, right)
    assert network.seen == 2 * N
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reference_features(dataset, network, cache_dir=cache)
    assert network.seen == 2 * N


def _interrupted(dataset: Dataset, cache: Path, after: int) -> Path:
    with pytest.raises(KeyboardInterrupt):
        reference_features(dataset, Means(fail_after=after), cache_dir=cache)
    return entry_folder(dataset, Means(), None, cache)


def test_killed_halfway_it_goes_on(write: Callable, cache: Path) -> None:
    dataset, network = write(0), Means()
    entry = _interrupted(dataset, cache, after=10)
    with open(entry / "features.f32", "ab") as file:  # a chunk the kill cut off before its journal line
        file.write(b"torn")
    with open(entry / "journal", "a") as file:
        file.write('{"end": 1')
    found = reference_features(dataset, network, cache_dir=cache)
    assert network.seen == N - 10
    assert np.abs(found.features - exact(dataset)).max() < 1e-4
    assert np.array_equal(found.logits, found.features[:, :2] + 1)


def test_killed_halfway_and_damaged_it_goes_on_before_the_damage(write: Callable, cache: Path) -> None:
    dataset, network = write(0), Means()
    entry = _interrupted(dataset, cache, after=15)
    content = bytearray((entry / "features.f32").read_bytes())
    content[5 * 3 * 4 + 1] ^= 1  # in the second chunk
    (entry / "features.f32").write_bytes(content)
    found = reference_features(dataset, network, cache_dir=cache)
    assert network.seen == N - 5
    assert np.abs(found.features - exact(dataset)).max() < 1e-4


def test_killed_before_the_first_chunk(write: Callable, cache: Path) -> None:
    dataset, network = write(0), Means()
    _interrupted(dataset, cache, after=0)
    assert not is_cached(dataset, network, cache_dir=cache)
    reference_features(dataset, network, cache_dir=cache)
    assert network.seen == N


def _in_process(path: str, cache: Path, answers: "multiprocessing.Queue") -> None:
    torch.set_num_threads(1)
    reference.CHUNK = 5
    network = Means()
    found = reference_features(open_prepared(path, in_memory=False), network, cache_dir=cache)
    answers.put((network.seen, found.features.tobytes()))


def test_of_two_processes_one_computes(write: Callable, cache: Path) -> None:
    dataset = write(0)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    both = [context.Process(target=_in_process, args=(dataset.path, cache, answers)) for _ in range(2)]
    for process in both:
        process.start()
    (seen_a, bytes_a), (seen_b, bytes_b) = answers.get(timeout=60), answers.get(timeout=60)
    for process in both:
        process.join()
    assert sorted([seen_a, seen_b]) == [0, N]
    assert bytes_a == bytes_b


def test_a_full_disk_is_one_message(write: Callable, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(reference, "_append", full)
    with pytest.raises(UserError, match=r"no space left for features of 23 images .*\$GANSMITH_CACHE"):
        reference_features(write(0), Means(), cache_dir=cache)
