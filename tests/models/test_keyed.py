"""Numbers that keys name: their distribution, and that nothing but key and place matters."""

import torch

from gansmith.models import keyed

KEYS = torch.arange(400)


def test_the_hash_is_splitmix64():
    # The reference implementation's first outputs for seed 0, whose state grows by the increment.
    step = keyed._STEP
    states = torch.tensor([0, step, (2 * step + (1 << 63)) % (1 << 64) - (1 << 63)])
    outputs = [value % (1 << 64) for value in keyed.scramble(states).tolist()]
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_uniform_and_normal_numbers_have_their_moments():
    u, n = keyed.uniform(KEYS, 500), keyed.normal(KEYS, 500)
    count = u.numel()  # 200,000: standard errors below 0.3 %
    assert 0 <= u.min() < 1e-4
    assert 1 - 1e-4 < u.max() < 1
    for power in (1, 2, 3):
        assert abs(u.pow(power).mean() - 1 / (power + 1)) < 4 / count**0.5
    for power, moment, deviation in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        assert abs(n.pow(power).mean() - moment) < 4 * deviation / count**0.5


def test_keys_columns_and_places_are_independent():
    n = keyed.normal(KEYS, 400)
    rows, columns = torch.corrcoef(n), torch.corrcoef(n.t())
    for matrix in (rows, columns):
        assert (matrix - torch.eye(400)).abs().max() < 0.3  # 6 standard errors of 80,000 pairs
        assert abs(matrix.sum() - 400) / 400 < 5
    other = keyed.normal(KEYS, 400, place=1)
    assert abs((n * other).mean()) < 4 / 400


def test_a_number_depends_on_its_key_alone():
    whole = keyed.normal(KEYS, 64, place=3)
    assert torch.equal(keyed.normal(KEYS[7:9], 64, place=3), whole[7:9])
    assert torch.equal(keyed.normal(KEYS, 32, place=3), whole[:, :32])


def test_every_entry_of_a_row_and_its_place_make_its_key():
    z = torch.randn(50, 7)
    keys = keyed.of_rows(z)
    assert len(keys.unique()) == 50
    assert torch.equal(keyed.of_rows(z[10:20]), keys[10:20])
    for entry in range(7):
        changed = z.clone()
        changed[:, entry] += 1e-6 + changed[:, entry].abs() * 1e-6
        assert (keyed.of_rows(changed) != keys).all()
    assert (keyed.of_rows(z.flip(1)) != keys).all()
    bits = (torch.arange(128)[:, None] >> torch.arange(7) & 1).float()  # latents that are 0 or 1
    assert len(keyed.of_rows(bits).unique()) == 128
