"""What inspect says about sets with known properties, prepared and not."""

import numpy as np
import pytest
from numbered_sets import write_prepared
from pictures import folder, noise, write
from PIL import Image

from gansmith.data.inspect import SHEET_COLUMNS, contact_sheet, inspect, report
from gansmith.data.prepare import PrepareSettings, prepare


def odd(found) -> str:
    return "\n".join(found.oddities)


def test_counts_sizes_and_imbalance_of_a_folder(tmp_path):
    root = folder(tmp_path, {"a": 40, "b": 2})
    write(root / "a" / "wide.png", 900, 30, 90)
    found = inspect(str(root))
    assert found.classes == [("a", 41), ("b", 2)]
    assert found.sizes == {(40, 40): 42, (90, 30): 1}
    assert found.imbalance == 20.5
    assert "imbalance 20" in odd(found)
    assert "2 classes (a, b) with fewer than 50 images" in odd(found)
    text = report(found)
    assert "mixed; shorter side 30 to 40 px, median 40; most frequent 40×40" in text
    assert "a        41 ████████████████████████████████████████" in text
    assert "b         2 ██\n" in text


def test_a_prepared_set_tells_its_storage_and_empty_classes(tmp_path):
    labels = np.array([0, 2] * 4)
    write_prepared(tmp_path / "p", np.stack([noise(i, 8, 8) for i in range(8)]), labels, "png")
    found = inspect(str(tmp_path / "p"))
    assert (found.storage, found.channels, found.sizes) == ("png", 3, {(8, 8): 8})
    assert "1 class (class 1) without images" in odd(found)
    assert found.content_hash in report(found)


def test_gray_pictures_stored_as_rgb_are_noticed(tmp_path):
    for name in "ab":
        for i in range(3):
            path = tmp_path / "src" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise(i + 10 * ord(name))).convert("L").convert("RGB").save(path)
    assert "all sampled images are gray: prepare with --channels 1" in odd(inspect(str(tmp_path / "src")))
    prepare(str(tmp_path / "src"), tmp_path / "p", PrepareSettings(resolution=32), progress=False)
    assert "grayscale stored as RGB" in odd(inspect(str(tmp_path / "p")))


def test_one_class_and_damaged_files_are_noticed(tmp_path):
    root = folder(tmp_path, {"only": 3})
    (root / "only" / "x.png").write_text("x")
    found = inspect(str(root))
    assert "one class" in odd(found)
    assert "1 of 4 sampled images are damaged, as only/x.png: not an image" in odd(found)
    assert "one class" not in odd(inspect(str(root), unconditional=True))


def test_many_classes_are_summarised(tmp_path):
    labels = np.repeat(np.arange(100), np.arange(1, 101))
    images = np.zeros((len(labels), 2, 2, 1), np.uint8)
    write_prepared(tmp_path / "p", images, labels, "raw", 10**8)
    lines = report(inspect(str(tmp_path / "p"))).splitlines()
    assert len(lines) < 40
    assert lines[lines.index("  largest classes") + 1].split()[:3] == ["class", "99", "100"]
    assert lines[lines.index("  smallest classes") + 5].split()[:3] == ["class", "0", "1"]
    assert all(len(line) <= 100 for line in lines if "████" in line)


@pytest.mark.parametrize("prepared", [False, True])
def test_the_contact_sheet_has_a_row_per_class(tmp_path, prepared):
    path = folder(tmp_path / "src", {"a": 15, "b": 4}, ".png")
    if prepared:
        prepare(str(path), tmp_path / "p", PrepareSettings(resolution=40), progress=False)
        path = tmp_path / "p"
    tiles, labels = contact_sheet(str(path))
    assert labels == ["a (15)", "b (4)"]
    side = 40 if prepared else 64
    assert tiles.shape == (2 * SHEET_COLUMNS, side, side, 3)
    assert (tiles[SHEET_COLUMNS + 4 :] == 255).all()  # class b ends after four
    if prepared:
        known = {noise(seed).tobytes() for seed in range(15)}
        assert all(tile.tobytes() in known for tile in tiles[:SHEET_COLUMNS])


def test_the_contact_sheet_is_bounded(tmp_path):
    labels = np.arange(50)
    write_prepared(tmp_path / "p", np.zeros((50, 2, 2, 1), np.uint8), labels, "raw", 10**8)
    tiles, rows = contact_sheet(str(tmp_path / "p"))
    assert (len(rows), len(tiles)) == (20, 200)
    assert rows[0].startswith("class 0")
