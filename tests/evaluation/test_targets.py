"""What can be scored: every kind of target, the same chunks for everyone, classes that follow the reals."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gansmith.data.prepare import prepare
from gansmith.data.settings import PrepareSettings
from gansmith.data.shards import ClassInfo
from gansmith.errors import UserError
from gansmith.evaluation import stored, targets
from gansmith.evaluation.reals import open_reference
from gansmith.weights import snapshot

REALS = [ClassInfo(0, "ant", 30), ClassInfo(1, "bee", 10), ClassInfo(2, "cat", 20)]


def pictures(count: int, side: int = 32, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), dtype=np.uint8)


def everything(target: targets.Target, num: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor | None]:
    chunks = [target.chunk(index, seed=seed, num=num) for index in range(target.num_chunks(num))]
    labels = [chunk.labels for chunk in chunks if chunk.labels is not None]
    return torch.cat([chunk.images for chunk in chunks]), torch.cat(labels) if labels else None


@pytest.mark.parametrize("counts", [[5, 5, 5], [30, 10, 20], [1, 1000, 0, 7]])
def test_every_beginning_of_the_labels_has_about_the_frequencies_of_the_whole(counts: list[int]) -> None:
    labels = targets.spread_labels(counts)
    assert np.bincount(labels, minlength=len(counts)).tolist() == counts
    shares = np.array(counts) / sum(counts)
    for length in range(1, len(labels) + 1):
        seen = np.bincount(labels[:length], minlength=len(counts))
        assert np.abs(seen - length * shares).max() <= len(counts) / 2


def test_fakes_follow_the_frequencies_and_the_ids_of_the_reals(fake_run: Path) -> None:
    target = targets.open_target(fake_run)
    assert target.follow(REALS) == "proportional"
    _, labels = everything(target, 60)
    assert labels is not None
    assert torch.bincount(labels).tolist() == [30, 10, 20]
    # The network's own class 0 is called cat: the reals' class 2 must be drawn from it.
    cat = [ClassInfo(0, "ant", 0), ClassInfo(1, "bee", 0), ClassInfo(2, "cat", 5)]
    target.follow(cat)
    images, labels = everything(target, 4)
    assert labels is not None
    assert labels.tolist() == [2, 2, 2, 2]
    target.follow([ClassInfo(0, "ant", 1), ClassInfo(1, "bee", 1), ClassInfo(2, "cat", 1)])
    mixed, labels = everything(target, 4)
    assert labels is not None
    assert (images == mixed).flatten(1).all(1).tolist() == (labels == 2).tolist()


def test_other_classes_than_the_reals_are_drawn_as_trained_and_carry_no_labels(fake_run: Path) -> None:
    target = targets.open_target(fake_run)
    assert target.follow([ClassInfo(0, "house", 3), ClassInfo(1, "boat", 3)]) == "own"
    assert not target.labelled
    assert everything(target, 4)[1] is None


def test_a_chunk_depends_on_its_seed_and_number_alone(fake_run: Path) -> None:
    one, two = targets.open_target(fake_run), targets.open_target(fake_run)
    for target in (one, two):
        target.follow(REALS)
    two.chunk(0, seed=5, num=200)
    torch.manual_seed(9)
    for index in (1, 0):
        assert torch.equal(one.chunk(index, seed=3, num=100).images, two.chunk(index, seed=3, num=100).images)
    assert len(one.chunk(1, seed=3, num=100).images) == 36
    assert not torch.equal(one.chunk(0, seed=3, num=8).images, one.chunk(0, seed=4, num=8).images)


def test_drawing_touches_no_global_random_state_and_no_weight(fake_run: Path) -> None:
    target = targets.open_target(fake_run, truncation=0.5)
    assert isinstance(target, targets.NetworkTarget)
    before = snapshot.fingerprint(target.sampler.G.state_dict())
    state, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    everything(target, 70)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numbers).all()  # type: ignore[index]
    assert snapshot.fingerprint(target.sampler.G.state_dict()) == before


def test_a_run_a_snapshot_and_a_checkpoint_are_networks(fake_run: Path) -> None:
    newest = targets.open_target(fake_run)
    file = targets.open_target(newest.file)
    assert newest.run == file.run == fake_run
    assert targets.name_of(newest.file) == "000000002000"
    assert newest.describe()["target_sha256"] == file.describe()["target_sha256"]
    checkpoint = targets.open_target(fake_run / "checkpoints" / "000000003000")
    assert checkpoint.images_seen == 3000
    assert targets.name_of(checkpoint.file) == "000000003000"


def test_images_of_every_form_are_the_same_images(tmp_path: Path) -> None:
    images = pictures(12)
    folder = tmp_path / "drawn"
    folder.mkdir()
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:03d}.png")
    with zipfile.ZipFile(tmp_path / "drawn.zip", "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    np.savez(tmp_path / "drawn.npz", images=images)
    np.savez(tmp_path / "evaluator.npz", arr_0=images, arr_1=np.arange(12) % 3)
    settings = PrepareSettings(resolution=32, unconditional=True, dedup=False)
    prepare(str(folder), tmp_path / "prepared", settings)
    for name in ("drawn", "drawn.zip", "drawn.npz", "evaluator.npz", "prepared"):
        target = targets.open_target(tmp_path / name)
        assert (target.shape, target.available) == ((3, 32, 32), 12), name
        target.follow(REALS)
        found, labels = everything(target, 12)
        found = found.permute(0, 2, 3, 1)
        if name == "prepared":  # in an order of its own
            assert {image.numpy().tobytes() for image in found} == {image.tobytes() for image in images}
        else:
            assert (found.numpy() == images).all(), name
        assert (labels is not None) == (name == "evaluator.npz")
        assert len(target.describe()["target_sha256"]) == 64
        part = everything(target, 5, seed=1)[0]
        assert torch.equal(part, everything(target, 5, seed=1)[0])
        assert not torch.equal(part, everything(target, 5, seed=2)[0])


def test_labels_of_a_folder_are_the_ids_of_the_reals(tmp_path: Path) -> None:
    for name in ("cat", "bee", "ant"):
        (tmp_path / name).mkdir()
        for index in range(2):
            Image.fromarray(pictures(1)[0]).save(tmp_path / name / f"{index}.png")
    target = targets.open_target(tmp_path)
    shuffled = [ClassInfo(0, "cat", 9), ClassInfo(1, "ant", 9), ClassInfo(2, "bee", 9)]
    target.follow(shuffled)
    labels = everything(target, 6)[1]
    assert labels is not None
    assert labels.tolist() == [1, 1, 2, 2, 0, 0]  # files lie in the order ant, bee, cat


def test_grey_files_are_grey(tmp_path: Path) -> None:
    for index in range(3):
        Image.fromarray(pictures(1, channels=1)[0, :, :, 0]).save(tmp_path / f"{index}.png")
    assert targets.open_target(tmp_path).shape == (1, 32, 32)


def savez(file: Path, **arrays: object) -> Path:
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.zeros((4, 32, 32, 3), np.float32)}, "uint8"),
        ({"images": np.zeros((4, 3, 32, 32), np.uint8)}, r"\(n, height, width"),
        ({"samples": np.zeros((4, 32, 32, 3), np.uint8)}, "holds samples"),
        ({"images": np.zeros((0, 32, 32, 3), np.uint8)}, "uint8"),
        ({"images": np.array([{"a": 1}], object)}, "pickled"),
        ({"images": np.zeros((4, 8, 8, 3), np.uint8), "labels": np.zeros(3, np.int64)}, "one whole number"),
        ({"images": np.zeros((4, 8, 8, 3), np.uint8), "labels": np.zeros(4)}, "one whole number"),
    ],
)
def test_an_npz_of_something_else_is_refused(tmp_path: Path, arrays: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        targets.open_target(savez(tmp_path / "bad.npz", **arrays))


def test_broken_and_foreign_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.npz").write_bytes(savez(tmp_path / "x.npz", images=pictures(4)).read_bytes()[:100])
    (tmp_path / "code.npz").write_bytes(pickle.dumps({"images": 1}))
    for name in ("cut.npz", "code.npz"):
        with pytest.raises(UserError, match="cannot be read"):
            targets.open_target(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        targets.open_target(tmp_path / "nothing")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="is empty"):
        targets.open_target(empty)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(UserError, match="no snapshot and no checkpoint"):
        targets.open_target(tmp_path / "run")


def test_images_of_several_sizes_and_damaged_ones_are_refused_by_name(tmp_path: Path) -> None:
    for index, side in enumerate((32, 32, 16)):
        Image.fromarray(pictures(1, side)[0]).save(tmp_path / f"{index}.png")
    with pytest.raises(UserError, match=r"2\.png is 16×16"):
        everything(targets.open_target(tmp_path), 3)
    buffer = io.BytesIO()
    Image.fromarray(pictures(1)[0]).save(buffer, format="PNG")
    (tmp_path / "2.png").write_bytes(buffer.getvalue()[:-200])
    with pytest.raises(UserError, match=r"2\.png cannot be scored"):
        everything(targets.open_target(tmp_path), 3)


def test_truncation_is_for_networks(tmp_path: Path, fake_run: Path) -> None:
    with pytest.raises(UserError, match="holds images"):
        targets.open_target(savez(tmp_path / "x.npz", images=pictures(2)), truncation=0.5)
    with pytest.raises(UserError, match="above 0"):
        targets.open_target(fake_run, truncation=-1.0)
    full, cut = targets.open_target(fake_run), targets.open_target(fake_run, truncation=0.3)
    for target in (full, cut):
        target.follow(REALS)
    assert not torch.equal(full.chunk(0, seed=0, num=4).images, cut.chunk(0, seed=0, num=4).images)
    assert full.describe()["target_sha256"] == cut.describe()["target_sha256"]  # statistics are not weights
    assert cut.describe()["truncation"] == 0.3


def test_a_network_that_draws_nan_is_told_of(fake_run: Path) -> None:
    target = targets.open_target(fake_run)
    assert isinstance(target, targets.NetworkTarget)
    target.follow(REALS)
    original = target.sampler.G.forward
    target.sampler.G.forward = lambda z, y: original(z, y) * torch.nan  # type: ignore[method-assign]
    with pytest.raises(UserError, match="4 of 4 images hold NaN"):
        target.chunk(0, seed=0, num=4)


def test_an_uncompressed_npz_is_read_image_by_image(tmp_path: Path) -> None:
    images = pictures(9)
    plain = stored.NpzImages(savez(tmp_path / "plain.npz", labels=np.arange(9), images=images))
    np.savez_compressed(tmp_path / "small.npz", images=images)
    np.savez(tmp_path / "turned.npz", images=np.asfortranarray(images))
    assert isinstance(plain._images, np.memmap)
    small, turned = (stored.NpzImages(tmp_path / f"{name}.npz") for name in ("small", "turned"))
    assert not isinstance(small._images, np.memmap)
    for each in (plain, small, turned):
        assert np.array_equal(each.read(np.array([7, 2])), images[[7, 2]])


def test_a_picked_image_is_that_of_its_chunk(fake_run: Path) -> None:
    target = targets.open_target(fake_run)
    whole = target.chunk(0, seed=3, num=20).images
    some = target.pick(np.array([11, 4]), seed=3, num=20).images
    assert (some.int() - whole[[11, 4]].int()).abs().max() <= 1  # rounding of another batch


def test_reals_of_a_run_are_what_it_was_trained_on(fake_run: Path, reals: Path) -> None:
    target = targets.NetworkTarget(fake_run)
    target.sampler.info["config"] = {"data": {"path": str(reals), "hold_out": 0.5}, "model": {}}
    assert [info.count for info in open_reference(None, target).classes] == [15, 5, 10]
    assert len(open_reference(str(reals), target)) == 60
