"""The sample-addressed order: bijective, uniform, the same however it is cut and restarted. Fixed seeds."""

import itertools
import json
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gansmith.data.order import SHUFFLE_UP_TO, TINY, Order, Segment, SetRef, slices
from gansmith.errors import UserError

SEEDS = st.integers(0, 2**63)

# Seed 42 at positions 0, 1, 2 and 1,000,000,007, as the first release gave them.
GOLDEN = {10: [7, 0, 8, 5], 1000: [168, 22, 609, 338], 1281167: [512490, 824038, 1030298, 780633]}
GOLDEN_FLIPS = [True, True, False, False]
GOLDEN_LABEL_BITS = [2586803930906804681, 15637054966578228962, 4443125773636523316, 17162150131648969378]
GOLDEN_CROPS = [682, 314, 344, 433]


def order_of(n: int, seed: int = 0, **options) -> Order:
    return Order(seed, (Segment(0, (SetRef("a", n),)),), **options)


def samples(order: Order, start: int, stop: int) -> np.ndarray:
    return order.locate(np.arange(start, stop)).sample


def assert_bijection(found: np.ndarray, n: int) -> None:
    assert len(found) == n
    assert found.min() == 0
    assert found.max() == n - 1
    assert len(np.unique(found)) == n


@pytest.mark.parametrize("seed", [0, 1])
def test_every_epoch_is_a_bijection_for_every_small_n(seed):
    for n in range(1, 130):
        located = order_of(n, seed).locate(np.arange(3 * n))
        assert np.array_equal(located.epoch, np.repeat(np.arange(3), n))
        for epoch in range(3):
            assert_bijection(located.sample[epoch * n : (epoch + 1) * n], n)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 1_000_000), epoch=st.integers(0, 10**6), seed=SEEDS)
def test_every_epoch_is_a_bijection(n, epoch, seed):
    assert_bijection(samples(order_of(n, seed), epoch * n, (epoch + 1) * n), n)


@pytest.mark.parametrize("n", [TINY, TINY + 1, SHUFFLE_UP_TO, SHUFFLE_UP_TO + 1, 256**2 + 257, 500**2])
def test_bijection_where_the_method_changes_and_at_perfect_squares(n):
    assert_bijection(samples(order_of(n), n, 2 * n), n)


def test_300_million_images_need_constant_memory():
    n, many = 300_000_000, 500_000
    order = order_of(n)
    tracemalloc.start()
    first = samples(order, 0, many)
    across = order.locate(np.arange(n - 1000, n + 1000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A random function instead of a permutation would collide ~ many²/2n ≈ 417 times.
    assert len(np.unique(first)) == many
    assert first.min() >= 0
    assert first.max() < n
    assert abs(first.mean() / n - 0.5) < 4 * math.sqrt(1 / 12 / many)
    assert across.epoch.tolist() == [0] * 1000 + [1] * 1000
    assert peak < 200 * many  # bytes per position asked for; the set itself would be 2.4 GB of indices


def test_300_million_images_in_scattered_pieces_never_repeat_one():
    n = 300_000_000
    order, random = order_of(n, 5), np.random.default_rng(0)
    positions = np.unique(random.integers(0, n, 300_000)) + 7 * n
    located = order.locate(positions)
    assert (located.epoch == 7).all()
    assert len(np.unique(located.sample)) == len(positions)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_orders_are_uniform_over_all_permutations(n):
    draws = 400 * math.factorial(n)
    located = order_of(n, seed=11).locate(np.arange(n * draws))
    code = located.sample.reshape(draws, n) @ (n ** np.arange(n))
    expected = {sum(v * n**i for i, v in enumerate(p)) for p in itertools.permutations(range(n))}
    values, counts = np.unique(code, return_counts=True)
    assert set(values.tolist()) == expected
    chi2, freedom = ((counts - 400) ** 2 / 400).sum(), len(expected) - 1
    assert abs(chi2 - freedom) < 4 * math.sqrt(2 * freedom)


def test_large_sets_spread_every_region_of_an_epoch_over_the_whole_set():
    n, bins = 100_000, 50  # a Feistel network; where do the first 2 % of an epoch come from?
    counts = np.zeros((bins, bins))
    found = samples(order_of(n, 3), 0, n)
    np.add.at(counts, (np.arange(n) * bins // n, found * bins // n), 1)
    expected, freedom = n / bins**2, (bins - 1) ** 2
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi2 - freedom) < 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("n", [64, 1000, 50_000, 200_000])
def test_ranks_of_a_sample_in_successive_epochs_are_uncorrelated(n):
    order = order_of(n, seed=1)
    ranks = []
    for epoch in range(4):
        rank = np.empty(n)
        rank[samples(order, epoch * n, (epoch + 1) * n)] = np.arange(n)
        ranks.append(rank)
    ranks.append(np.arange(n))  # nor with the order of the files
    rho = np.corrcoef(ranks)
    assert np.abs(rho[~np.eye(len(ranks), dtype=bool)]).max() < 4 / math.sqrt(n)


@st.composite
def trainings(draw):
    """Pieces of a run: each restart may choose another batch, world and micro-batch."""
    pieces = []
    for _ in range(draw(st.integers(1, 5))):
        world, micro = draw(st.integers(1, 4)), draw(st.integers(1, 9))
        pieces.append((micro * world * draw(st.integers(1, 4)), micro, world, draw(st.integers(1, 6))))
    return pieces


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 200), seed=SEEDS, pieces=trainings())
def test_any_cut_of_the_stream_gives_the_same_stream_and_every_sample_once_per_epoch(n, seed, pieces):
    order = order_of(n, seed)
    position, seen, augmented = 0, [], []
    for batch, micro, world, steps in pieces:  # a restart keeps nothing but the position
        for _ in range(steps):
            per_rank = [slices(position, batch, micro, rank, world) for rank in range(world)]
            for micro_step in zip(*per_rank, strict=True):
                for positions in micro_step:
                    located = order.locate(positions)
                    seen += located.sample.tolist()
                    augmented += located.flip.tolist()
            position += batch
    whole = order.locate(np.arange(position))
    assert seen == whole.sample.tolist()
    assert augmented == whole.flip.tolist()
    for epoch in range(position // n):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_raising_the_batch_from_64_to_2048_after_100k_steps_continues_the_epoch():
    """BigGAN-PyTorch multiplied all past steps by the new batch: −76,683,300 images left, a crash."""
    n = 1_281_167
    order = order_of(n)
    position = 100_000 * 64  # all the state there is
    steps = [slices(position + i * 2048, 2048, 256, rank=0, world=1) for i in range(3)]
    resumed = np.concatenate([np.concatenate(step) for step in steps])
    assert np.array_equal(resumed, np.arange(6_400_000, 6_400_000 + 3 * 2048))
    located = order.locate(resumed)
    # 4.995 epochs seen, not the 159 of a position rescaled by 2048/64; 5,835 images later the sixth begins.
    assert np.array_equal(located.epoch, np.repeat([4, 5], [5_835, 309]))
    before = order.locate(np.arange(4 * n, position))
    after = order.locate(np.arange(position, 5 * n))
    assert_bijection(np.concatenate([before.sample, after.sample]), n)
    assert order.epochs(position) == pytest.approx(6_400_000 / n)


def test_positions_may_come_in_any_order_and_grouping():
    order = order_of(70_000)
    positions = np.random.default_rng(0).permutation(np.arange(69_000, 71_000))
    whole = order.locate(np.arange(69_000, 71_000))
    scattered = order.locate(positions)
    for name in ("epoch", "sample", "flip", "crop_y", "crop_x", "random_label_bits"):
        assert np.array_equal(getattr(scattered, name), getattr(whole, name)[positions - 69_000])
    assert len(order.locate(np.array([], np.int64)).sample) == 0


def test_the_order_never_changes_from_one_version_to_the_next():
    """A run started today is resumed by next year's release: these numbers are part of the file format."""
    positions = np.array([0, 1, 2, 1_000_000_007])
    assert {n: order_of(n, 42).locate(positions).sample.tolist() for n in (10, 1000, 1_281_167)} == GOLDEN
    located = order_of(1000, 42).locate(positions)
    assert located.flip.tolist() == GOLDEN_FLIPS
    assert located.random_label_bits.tolist() == GOLDEN_LABEL_BITS
    assert (located.crop_y * 1000).astype(int).tolist() == GOLDEN_CROPS


def test_augmentation_is_uniform_and_independent_of_its_parts():
    many = 100_000
    located = order_of(10).locate(np.arange(many))
    columns = np.stack(
        [
            located.flip,
            located.crop_y,
            located.crop_x,
            located.random_label_bits / 2.0**64,
            located.sample / 10,
        ]
    )
    means = columns.mean(axis=1)
    assert np.abs(means[:4] - 0.5).max() < 4 * 0.5 / math.sqrt(many)
    assert np.abs(np.corrcoef(columns)[~np.eye(5, dtype=bool)]).max() < 4.5 / math.sqrt(many)
    assert columns[1:3].min() >= 0
    assert columns[1:3].max() < 1


def test_seed_and_start_of_the_segment_name_different_orders():
    one, other = samples(order_of(1000, 1), 0, 1000), samples(order_of(1000, 2), 0, 1000)
    assert (one == other).mean() < 0.02
    reopened = order_of(1000, 1).opened_at(5000, [SetRef("b", 1000)])
    assert (samples(reopened, 5000, 6000) == samples(order_of(1000, 1), 5000, 6000)).mean() < 0.02


# -- segments


def test_adding_data_in_the_middle_rescales_no_history():
    before = order_of(1000, 7)
    after = before.opened_at(2_500, [SetRef("a+b", 1500)])
    assert np.array_equal(samples(after, 0, 2500), samples(before, 0, 2500))
    assert_bijection(samples(after, 2500, 4000), 1500)
    located = after.locate(np.arange(2490, 2510))
    assert located.epoch.tolist() == [2] * 10 + [0] * 10
    assert after.epochs(4000) == pytest.approx(2.5 + 1)
    assert after.epochs(1000) == 1
    third = after.opened_at(4_000, [SetRef("c", 10)])
    assert np.array_equal(samples(third, 0, 4000), samples(after, 0, 4000))


def test_flips_do_not_depend_on_segments():
    before = order_of(1000, 7)
    after = before.opened_at(500, [SetRef("b", 20)])
    assert np.array_equal(before.locate(np.arange(900)).flip, after.locate(np.arange(900)).flip)


def test_opening_the_same_sets_changes_nothing_and_an_unused_segment_is_replaced():
    order = order_of(1000)
    assert order.opened_at(300, order.segments[-1].sets) is order
    twice = order.opened_at(300, [SetRef("b", 5)]).opened_at(300, [SetRef("c", 6)])
    assert [s.start for s in twice.segments] == [0, 300]
    assert twice.segments[1].sets == (SetRef("c", 6),)
    assert order.opened_at(0, [SetRef("b", 5)]).segments == (Segment(0, (SetRef("b", 5),)),)


def test_an_order_survives_json():
    order = Order(
        2**62,
        (Segment(0, (SetRef("a", 1000),)), Segment(99, (SetRef("a", 1000, 0.25), SetRef("b", 7, 0.75)))),
    )
    again = Order.from_json(json.loads(json.dumps(order.to_json())))
    assert again == order
    labels = np.arange(50) % 3
    balanced = order_of(50, 1, balanced=True, labels=labels)
    again = Order.from_json(json.loads(json.dumps(balanced.to_json())), labels)
    assert np.array_equal(samples(again, 0, 200), samples(balanced, 0, 200))


def test_mixing_several_sets_is_refused_until_it_exists():
    mixed = order_of(1000).opened_at(100, [SetRef("a", 1000), SetRef("b", 10, weight=3)])
    assert len(mixed.locate(np.arange(100)).sample) == 100
    with pytest.raises(UserError, match="mixes 2 sets from image 100 on"):
        mixed.locate(np.arange(50, 101))


# -- balanced sampling


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(0, 150), min_size=1, max_size=12).filter(any), seed=SEEDS)
def test_balanced_rounds_show_every_class_once_and_classes_walk_their_images_in_epochs(counts, seed):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    present = np.unique(labels)
    rounds = 2 * max(counts)
    order = order_of(len(labels), seed, balanced=True, labels=labels)
    located = order.locate(np.arange(rounds * len(present)))
    by_round = labels[located.sample].reshape(rounds, len(present))
    assert (np.sort(by_round, axis=1) == present).all()
    for label in present:
        mine = labels[located.sample] == label
        images, count = located.sample[mine], counts[label]
        for epoch in range(rounds // count):
            part = slice(epoch * count, (epoch + 1) * count)
            assert sorted(images[part]) == np.flatnonzero(labels == label).tolist()
            assert (located.epoch[mine][part] == epoch).all()


def test_balanced_sampling_cut_anywhere_is_the_same_stream():
    labels = np.random.default_rng(1).integers(0, 7, 3000) ** 2 % 7
    order = order_of(3000, 4, balanced=True, labels=labels)
    whole = samples(order, 0, 5000)
    pieces = np.concatenate(
        [samples(order, a, b) for a, b in itertools.pairwise([0, 1, 64, 700, 2748, 5000])]
    )
    assert np.array_equal(whole, pieces)


def test_balanced_order_of_classes_is_uniform_and_new_in_every_round():
    labels = np.repeat(np.arange(3), [5, 50, 500])
    rounds = 6 * 500
    found = labels[samples(order_of(555, 2, balanced=True, labels=labels), 0, 3 * rounds)].reshape(rounds, 3)
    _, counts = np.unique(found @ [1, 3, 9], return_counts=True)
    assert len(counts) == 6
    assert ((counts - 500) ** 2 / 500).sum() < 5 + 4 * math.sqrt(10)


def test_balanced_sampling_of_a_large_class_uses_no_table_of_permutations():
    labels = np.repeat([0, 1], [200_000, 100])
    order = order_of(len(labels), 2, balanced=True, labels=labels)
    found = samples(order, 0, 400_000)
    large = found[labels[found] == 0]
    assert_bijection(large, 200_000)
    rank = np.empty(200_000)
    rank[large] = np.arange(200_000)
    assert abs(np.corrcoef(rank, np.arange(200_000))[0, 1]) < 4 / math.sqrt(200_000)


def test_data_added_to_a_balanced_run_is_walked_by_its_own_labels():
    old, new = np.arange(30) % 3, np.arange(50) % 5
    saved = order_of(30, 1, balanced=True, labels=old).to_json()
    order = Order.from_json(saved, labels=new).opened_at(60, [SetRef("b", 50)])
    assert (np.bincount(new[samples(order, 60, 160)]) == 20).all()
    given = Order.from_json(saved, labels=old).opened_at(60, [SetRef("b", 50)], labels=new)
    assert np.array_equal(samples(given, 60, 160), samples(order, 60, 160))


# -- slices


def test_slices_lie_as_the_layout_says():
    assert [s.tolist() for s in slices(100, 12, 3, rank=1, world=2)] == [[103, 104, 105], [109, 110, 111]]


@given(trainings(), st.integers(0, 10**12))
def test_slices_of_all_ranks_cover_the_batch_once(pieces, start):
    for batch, micro, world, _ in pieces:
        parts = [slices(start, batch, micro, rank, world) for rank in range(world)]
        assert all(len(part) == micro and part.dtype == np.int64 for rank in parts for part in rank)
        flat = np.sort(np.concatenate([part for rank in parts for part in rank]))
        assert np.array_equal(flat, np.arange(start, start + batch))


@pytest.mark.parametrize(
    ("batch", "micro", "world", "nearest"),
    [(250, 32, 8, "256"), (300, 32, 8, "256 or 512"), (0, 4, 1, "4"), (7, 2, 1, "6 or 8")],
)
def test_a_batch_that_cannot_be_split_names_the_nearest(batch, micro, world, nearest):
    with pytest.raises(
        UserError, match=rf"--batch {batch} cannot .* micro-batch {micro}; nearest: {nearest}\."
    ):
        slices(0, batch, micro, 0, world)
