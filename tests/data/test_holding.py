"""Images held out of training: a view of the set that nothing else notices."""

import numpy as np
import pytest
from numbered_sets import numbered_images, write_prepared

from gansmith.data.feed import Feed
from gansmith.data.holding import left, split
from gansmith.data.order import Order, Segment, SetRef
from gansmith.data.shards import open_prepared
from gansmith.errors import UserError

LABELS = np.array([0] * 100 + [2] * 41 + [3] * 3 + [4])  # class 1 is empty


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    return {kind: write_prepared(root / kind, numbered_images(145), LABELS, kind) for kind in ("raw", "png")}


@pytest.mark.parametrize("storage", ["raw", "png"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_the_two_parts_are_the_whole_set(folder, tmp_path, storage, in_memory):
    data = open_prepared(folder[storage], cache_dir=tmp_path, in_memory=in_memory)
    rest, held = split(data, 14)
    assert (len(rest), len(held)) == (131, 14)
    numbers = []
    for part in (rest, held):
        pixels = part.read(np.arange(len(part)))
        numbers.append(pixels.reshape(len(part), -1)[:, 0].astype(int))
        assert np.array_equal(pixels, data.read(numbers[-1]))
        assert np.array_equal(part.labels, data.labels[numbers[-1]])
        assert part.payload(3) == data.payload(int(numbers[-1][3]))
        assert part.key(3) == f"{numbers[-1][3]:08d}"
        assert [info.count for info in part.classes] == np.bincount(part.labels, minlength=5).tolist()
        assert [(info.id, info.name) for info in part.classes] == [(i.id, i.name) for i in data.classes]
    assert sorted(np.concatenate(numbers)) == list(range(145))
    assert len({data.content_hash, rest.content_hash, held.content_hash}) == 3
    assert len(data) == 145  # the whole set is as it was
    part = rest.subset(np.array([5, 2]))
    assert np.array_equal(part.read(np.array([1])), data.read(numbers[0][[2]]))


def test_every_class_gives_its_share_and_keeps_one(folder):
    data = open_prepared(folder["raw"], in_memory=False)
    assert np.bincount(split(data, 0.1)[1].labels, minlength=5).tolist() == [10, 0, 4, 0, 0]
    assert np.bincount(split(data, 71)[0].labels, minlength=5).tolist() == [50, 0, 21, 2, 1]


def test_what_will_be_left_is_known_before_an_image_is_read(folder):
    data = open_prepared(folder["raw"], in_memory=False)
    for amount in (0, 0.1, 14, 71):
        assert left(data.classes, amount, "x") == list(split(data, amount)[0].classes)
    with pytest.raises(UserError, match="cannot be held out"):
        left(data.classes, 72, "x")


def test_what_is_held_out_does_not_depend_on_how_much(folder):
    data = open_prepared(folder["raw"], in_memory=False)
    few, more = (set(split(data, n)[1].read(np.arange(n)).reshape(n, -1)[:, 0].tolist()) for n in (7, 40))
    assert few < more
    assert few != set(range(7))


def test_the_order_of_the_rest_never_shows_them(folder):
    rest, held = split(open_prepared(folder["raw"], in_memory=False), 0.2)
    order = Order(0, (Segment(0, (SetRef(rest.content_hash, len(rest)),)),))
    shown = Feed(rest, order, flip=False, num_classes=5).read(np.arange(3 * len(rest)))[0].numpy()
    counts = np.bincount(shown.reshape(len(shown), -1)[:, 0], minlength=145)
    held_numbers = held.read(np.arange(len(held))).reshape(len(held), -1)[:, 0]
    assert (counts[held_numbers] == 0).all()
    assert counts.sum() == counts.max() * (145 - len(held)) == 3 * 116


def test_nothing_held_out_is_the_set_itself(folder):
    data = open_prepared(folder["raw"], in_memory=False)
    assert split(data, 0) == (data, None)


@pytest.mark.parametrize("amount", [0.001, 72, 0.6])
def test_amounts_that_leave_no_image_or_no_class_are_refused(folder, amount):
    with pytest.raises(UserError, match=r"data.hold_out .* 1 to 71 can \(half of every class\)"):
        split(open_prepared(folder["raw"], in_memory=False), amount)
