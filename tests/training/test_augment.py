"""DiffAugment and ADA: what each transformation does to an image, how often, and with which gradient."""

import math

import pytest
import torch

from gansmith.training.objectives import ada, diffaugment, transforms


def row(*numbers):
    return torch.tensor([numbers], dtype=torch.float64)


@pytest.fixture
def x():
    return torch.rand(1, 3, 8, 8, dtype=torch.float64) * 2 - 1


# DiffAugment
# -------------------------------------------------------------------------------------------------------


def test_colour_is_brightness_then_saturation_then_contrast(x):
    out = diffaugment.color(x, row(0.75, 0.1, 0.9))
    bright = x + 0.25
    grey = bright.mean(1, keepdim=True)
    pale = grey + 0.2 * (bright - grey)
    torch.testing.assert_close(out, pale.mean() + 1.4 * (pale - pale.mean()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("u", "down", "right"), [((0.0, 0.0), -1, -1), ((0.5, 0.5), 0, 0), ((0.999, 0.4), 1, 0)]
)
def test_translation_moves_by_whole_pixels_and_lets_zeros_in(x, u, down, right):
    out = diffaugment.translation(x, row(*u))
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))
    assert torch.equal(out, padded[:, :, 1 - down : 9 - down, 1 - right : 9 - right])


@pytest.mark.parametrize(
    ("u", "rows", "columns"), [((0.5, 0.5), (2, 6), (2, 6)), ((0, 0.999), (0, 2), (6, 8))]
)
def test_cutout_zeroes_a_square_of_half_the_side_around_a_pixel(x, u, rows, columns):
    out, expected = diffaugment.cutout(x, row(*u)), x.clone()
    expected[:, :, slice(*rows), slice(*columns)] = 0
    assert torch.equal(out, expected)


def test_every_image_has_its_own_numbers_and_operations_share_none(x):
    asked = []

    def uniform(count):
        asked.append(count)
        return torch.rand(2, count, dtype=torch.float64)

    out = diffaugment.augment(x.expand(2, -1, -1, -1), ("cutout", "color", "translation"), uniform)
    assert asked == [3 + 2 + 2]
    assert not torch.equal(out[0], out[1])


@pytest.mark.parametrize("name", diffaugment.OPERATIONS)
def test_what_diffaugment_does_can_be_differentiated(name):
    count, operation = diffaugment.OPERATIONS[name]
    x, u = torch.rand(2, 3, 4, 4, dtype=torch.float64, requires_grad=True), torch.rand(2, count).double()
    assert torch.autograd.gradcheck(lambda x: operation(x, u), (x,))


def test_images_stay_in_the_memory_layout_in_which_they_came():
    x = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    out = diffaugment.augment(x, ("color", "translation", "cutout"), lambda count: torch.rand(2, count))
    assert out.is_contiguous(memory_format=torch.channels_last)
    changed = ada.augment(x, torch.tensor(1.0), ada.FAMILIES, torch.rand(2, 17), torch.randn(2, 7))
    assert changed.is_contiguous(memory_format=torch.channels_last)


# ADA
# -------------------------------------------------------------------------------------------------------


def numbers(n, **chosen):
    """uniform and normal for n images: in the middle, where nothing moves, but for the chosen columns."""
    uniform, normal = torch.full((n, ada.UNIFORM), 0.5).double(), torch.zeros(n, ada.NORMAL).double()
    for name, values in chosen.items():
        (uniform if name[0] == "u" else normal)[:, int(name[1:])] = torch.as_tensor(
            values, dtype=torch.float64
        )
    return uniform, normal


def always(x, family, **chosen):
    return ada.augment(x, torch.tensor(1.0), (family,), *numbers(len(x), **chosen))


def test_with_probability_0_an_image_stays_as_it_is_bit_for_bit():
    x = torch.rand(5, 3, 8, 8) * 2 - 1
    out = ada.augment(x, torch.tensor(0.0), ada.FAMILIES, torch.rand(5, 17), torch.randn(5, 7))
    assert torch.equal(out, x)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("turns", range(4))
def test_mirror_and_turns_are_the_eight_symmetries_of_the_square(x, mirror, turns):
    out = always(x, "blit", u7=(turns + 0.5) / 4, u9=0.25 if mirror else 0.75)
    expected = torch.rot90(x.flip(3) if mirror else x, turns, (2, 3))
    torch.testing.assert_close(out, expected, rtol=0, atol=0)


def test_a_move_lets_the_reflection_in(x):
    out = always(x, "blit", u4=0.999, u5=0.001, u7=0.0, u9=0.75)  # 1 down, 1 to the left, no turn
    expected = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")[:, :, :8, 2:]
    torch.testing.assert_close(out, expected, rtol=0, atol=0)


def test_zoom_and_stretch_are_powers_of_two_about_the_middle():
    at = torch.arange(9, dtype=torch.float64)
    x = torch.stack([at.expand(9, 9), at[:, None].expand(9, 9)])[None]  # x and y of every pixel
    out = always(x, "geometry", n0=5.0)  # by 2^(0.2·5) = 2
    torch.testing.assert_close(out[0, 0, 0], 4 + (at - 4) / 2)
    torch.testing.assert_close(out[0, 1, :, 0], 4 + (at - 4) / 2)
    out = always(x, "geometry", n0=5.0, n1=5.0)  # 4 wide, 1 high
    torch.testing.assert_close(out[0, 0, 0], 4 + (at - 4) / 4)
    torch.testing.assert_close(out[0, 1, :, 0], at)
    out = always(x, "geometry", n3=0.5 / (0.125 * 9))  # half a pixel to the right
    torch.testing.assert_close(out[0, 0, 0], torch.cat([torch.tensor([0.5]).double(), at[1:] - 0.5]))


def test_colours_are_the_papers_matrices_one_after_the_other(x):
    b, c, s, theta = 0.3, -0.7, 0.4, 0.8
    out = always(x, "color", u13=0.25, u15=(theta / math.pi + 1) / 2, n4=b, n5=c, n6=s)
    v = torch.full((3,), 1 / math.sqrt(3), dtype=torch.float64)
    identity, axis = torch.eye(3).double(), torch.outer(v, v)
    cross = torch.linalg.cross(identity, v.expand(3, 3), dim=1).T  # cross @ w = v × w up to its sign
    colours = x[0].flatten(1) + 0.2 * b
    colours = 2 ** (0.5 * c) * colours
    colours = (identity - 2 * axis) @ colours
    colours = torch.linalg.matrix_exp(-theta * cross) @ colours
    colours = (axis + (identity - axis) * 2**s) @ colours
    torch.testing.assert_close(out[0].flatten(1), colours, rtol=1e-12, atol=1e-12)


def test_grey_images_have_brightness_contrast_and_luma():
    x = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    out = always(x, "color", u13=0.25, u15=0.9, n4=1.0, n5=2.0, n6=3.0)
    torch.testing.assert_close(out, -2 * (x + 0.2))


def test_every_transformation_comes_with_probability_p():
    n, p = 4000, 0.5
    x = torch.rand(1, 1, 8, 8).expand(n, -1, -1, -1)
    out = ada.augment(x, torch.tensor(p), ("blit",), torch.rand(n, 17), torch.randn(n, 7))
    same = (out == x).flatten(1).all(1).double().mean()
    # No mirror, no turn, no move: a move by up to one pixel is none for one in four.
    expected = (1 - p / 2) * (1 - 3 * p / 4) * (1 - p + p / 4)
    assert same.item() == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / n))


def test_ada_can_be_differentiated():
    x = torch.rand(2, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    u, n, p = torch.rand(2, 17).double(), torch.randn(2, 7).double(), torch.tensor(0.8)
    assert torch.autograd.gradcheck(lambda x: ada.augment(x, p, ada.FAMILIES, u, n), (x,))


def test_mirrored_coordinates_walk_to_and_fro():
    at = torch.arange(-5.0, 9.0)
    assert transforms.mirrored(at, 4).tolist() == [1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2]


def test_p_follows_the_sign_of_d_by_images():
    memory, seen = ada.memory(0.25), []
    for sign, batch in ((0.9, 100), (0.5, 300), (0.1, 100), (0.1, 100), (float("nan"), 9), (0.2, 50)):
        ada.adapt(memory, torch.tensor(sign), batch, target=0.6, every=2, images=1000)
        seen.append(memory["ada_p"].item())
    # Up by 400 images (mean 0.7), down by 200 (mean 0.1); the step without a number does not count.
    assert seen == pytest.approx([0.25, 0.65, 0.65, 0.45, 0.45, 0.45])
    assert memory["ada_steps"].item() == 1
    for _ in range(2):
        ada.adapt(memory, torch.tensor(-1.0), 10**6, target=0.6, every=1, images=1000)
    assert memory["ada_p"].item() == 0
