"""The small classifier: learns digits, repeats, keeps to itself, and survives its file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gansmith.errors import UserError
from gansmith.evaluation import classifier
from gansmith.evaluation.classifier import (
    Classifier,
    accuracy,
    as_input,
    default_steps,
    held_out_split,
    train_classifier,
)
from gansmith.evaluation.features import find


def colours(n: int, side: int = 12) -> tuple[torch.Tensor, np.ndarray]:
    """Noisy images whose class is their brightest channel: learned in a few steps."""
    labels = np.arange(n) % 3
    images = torch.randint(0, 120, (n, 3, side, side), dtype=torch.uint8)
    images[torch.arange(n), torch.from_numpy(labels)] += 80
    return images, labels


@pytest.fixture(scope="module")
def trained() -> Classifier:
    torch.manual_seed(0)
    return train_classifier(*colours(300), 3, steps=25, width=4, device="cpu")


def digits() -> tuple[torch.Tensor, np.ndarray]:
    bunch = pytest.importorskip("sklearn.datasets").load_digits()
    return torch.from_numpy((bunch.images * 15.9).astype(np.uint8))[:, None], bunch.target


def test_digits_are_recognised() -> None:
    images, labels = digits()
    train, held_out = held_out_split(labels, seed=0)
    net = train_classifier(images[train], labels[train], 10, steps=150, width=8, device="cpu")
    found = accuracy(net, images[held_out], labels[held_out])
    assert found.value >= 0.97
    assert found.per_class.min() >= 0.8
    assert found.count == len(held_out)


def test_equal_steps_and_seeds_give_equal_networks_and_leave_no_trace() -> None:
    images, labels = colours(60)
    options = {"steps": 4, "width": 4, "device": "cpu"}
    first = train_classifier(images, labels, 3, seed=1, **options)
    before = torch.random.get_rng_state()
    second = train_classifier(images, labels, 3, seed=1, **options)
    assert torch.equal(before, torch.random.get_rng_state())
    other = train_classifier(images, labels, 3, seed=2, **options)
    states = [net.state_dict() for net in (first, second, other)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])
    assert not any(p.requires_grad for p in second.parameters())


def test_training_inside_no_grad_still_learns() -> None:
    with torch.no_grad():
        net = train_classifier(*colours(300), 3, steps=25, width=4, device="cpu")
    assert accuracy(net, *colours(60)).value > 0.9


def test_seconds_end_it_and_progress_is_told() -> None:
    told: list[tuple[int, int | None, float]] = []
    train_classifier(
        *colours(30), 3, seconds=0.3, width=4, device="cpu", progress=lambda *at: told.append(at)
    )
    assert [steps for steps, _, _ in told] == list(range(1, len(told) + 1))
    assert all(total is None and np.isfinite(loss) for _, total, loss in told)


def test_images_may_be_read_by_number() -> None:
    images, labels = colours(60)

    class Rows:
        def __len__(self) -> int:
            return 60

        def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
            return images[indices]

    options = {"steps": 2, "width": 4, "device": "cpu"}
    read = train_classifier(Rows(), labels, 3, **options)
    held = train_classifier(images, labels, 3, **options)
    assert torch.equal(read.head.weight, held.head.weight)


def test_accuracy_is_counted_by_class(trained: Classifier) -> None:
    images, labels = colours(30)
    wrong = labels.copy()
    wrong[labels == 1] = 0  # ten images of class 1 called 0
    found = accuracy(trained, images, wrong)
    assert found.value == pytest.approx(20 / 30)
    assert found.per_class[0] == pytest.approx(0.5)
    assert np.isnan(found.per_class[1])
    assert found.per_class[2] == 1


@pytest.mark.parametrize("resolution", [1, 2, 5, 8, 28, 32, 33, 64])
def test_every_resolution_builds_and_runs(resolution: int) -> None:
    net = Classifier(resolution, 1, 4, width=4).eval()
    features, logits = net.features_and_logits(torch.zeros(2, 1, resolution, resolution))
    assert features.shape == (2, net.dim)
    assert logits.shape == (2, 4)


def test_large_and_oblong_images_are_seen_at_64_px() -> None:
    net = train_classifier(
        torch.zeros(4, 1, 90, 130, dtype=torch.uint8), [0, 1, 0, 1], 2, steps=1, width=4, device="cpu"
    )
    assert net.resolution == 64


def test_colour_and_grey_meet() -> None:
    grey = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    one, three = Classifier(8, 1, 2, 4), Classifier(8, 3, 2, 4)
    assert torch.allclose(as_input(grey.expand(-1, 3, -1, -1), one), as_input(grey, one), atol=1e-5)
    assert torch.equal(as_input(grey, three), as_input(grey.expand(-1, 3, -1, -1), three))


def test_shifts_and_mirrors_move_pixels_only() -> None:
    x = torch.arange(2 * 3 * 16 * 16.0).view(2, 3, 16, 16)
    moved = classifier._moved(x, True, torch.Generator().manual_seed(3))
    assert set(moved.flatten().tolist()) <= set(x.flatten().tolist())
    still = classifier._moved(x[..., :7, :7], False, torch.Generator().manual_seed(3))
    assert torch.equal(still, x[..., :7, :7])  # an eighth of 7 pixels is none


def test_the_split_takes_a_share_of_every_class() -> None:
    labels = np.repeat([0, 1, 2, 5], [100, 30, 2, 1])
    train, held_out = held_out_split(labels, seed=0)
    assert np.bincount(labels[held_out], minlength=6).tolist() == [10, 3, 1, 0, 0, 0]
    assert np.array_equal(np.sort(np.concatenate([train, held_out])), np.arange(133))
    assert np.array_equal(held_out, held_out_split(labels, seed=0)[1])
    assert not np.array_equal(held_out, held_out_split(labels, seed=1)[1])


def test_default_steps_follow_the_data() -> None:
    assert [default_steps(n) for n in (100, 50_000, 10**7)] == [400, 4687, 6000]


def test_a_saved_classifier_is_a_feature_network(trained: Classifier, tmp_path: Path) -> None:
    file, images = tmp_path / "mine.safetensors", colours(6)[0]
    classifier.save(file, trained, {"classes": ["r", "g", "b"], "accuracy": 0.5})
    network = find(f"classifier:{file}", device="cpu")
    found = network(images)
    features, logits = trained.features_and_logits(as_input(images, trained))
    assert torch.equal(found.features, features)
    assert torch.equal(found.logits, logits)
    assert (network.frechet_name, network.dim, network.num_logits) == ("FD-classifier", 32, 3)
    assert network.class_names == ["r", "g", "b"]
    assert network.describe()["held_out_accuracy"] == 0.5
    assert network(torch.randint(0, 256, (1, 1, 30, 17), dtype=torch.uint8)).features.isfinite().all()


def test_files_that_are_no_classifier(trained: Classifier, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    with pytest.raises(UserError, match=r"no such file; `gansmith eval train-classifier --data D`"):
        classifier.load(file)
    classifier.save(file, trained, {"classes": ["r", "g", "b"], "accuracy": 0.5})
    whole = file.read_bytes()
    file.write_bytes(whole[:-50])
    with pytest.raises(UserError, match="is damaged, or no classifier"):
        classifier.load(file)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(UserError, match="but no classifier"):
        classifier.load(file)
    classifier.save(file, trained, {"classes": ["r"], "accuracy": 0.5})
    file.write_bytes(file.read_bytes().replace(b'\\"width\\": 4', b'\\"width\\": 8'))
    with pytest.raises(UserError, match="is damaged"):
        classifier.load(file)
