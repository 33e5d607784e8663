"""The network table and the cost of a forward pass."""

import pytest
import torch

from gansmith.models.biggan import Discriminator, Generator
from gansmith.models.summary import count_macs, summary


def networks(**settings: object) -> tuple[Generator, Discriminator]:
    with torch.device("meta"):
        return Generator(dim_z=120, **settings), Discriminator(**settings)


@pytest.mark.parametrize("family", ["biggan", "biggan-deep"])
def test_rows_cover_every_parameter_in_order(family: str) -> None:
    for net in networks(family=family, resolution=64, num_classes=10, ch=8, attention=[32]):
        rows = summary(net)
        assert sum(parameters for _, _, parameters, _ in rows) == sum(p.numel() for p in net.parameters())
        assert len({name for name, *_ in rows}) == len(rows)


def test_rows_name_blocks_with_their_output_shapes() -> None:
    G, D = networks(resolution=64, num_classes=10, ch=8, attention=[32])
    table = {name: (kind, shape) for name, kind, _, shape in summary(G)}
    assert table["shared"] == ("Embedding", (128,))
    assert table["blocks.2.1"] == ("Attention", (32, 32, 32))
    assert table["blocks.3.0"] == ("GeneratorBlock", (16, 64, 64))
    assert table["output_layer"] == ("Sequential", (3, 64, 64))
    assert [row[0] for row in summary(D)][-2:] == ["linear", "embed"]


def test_multiplications_are_the_published_ones_less_the_cheap_shortcuts() -> None:
    """21.12 and 10.84 GMAC at 128 px, ch 96, with every 1×1 shortcut on the large side of its resampling."""
    G, D = networks(resolution=128, num_classes=1000, ch=96)
    channels = [m * 96 for m in (16, 16, 8, 4, 2, 1)]
    saved_g = sum(channels[i] * channels[i + 1] * 3 * (4 << i) ** 2 for i in range(5))
    channels = [m * 96 for m in (1, 2, 4, 8, 16)]
    saved_d = sum(channels[i] * channels[i + 1] * 3 * (32 >> i) ** 2 for i in range(4))
    assert (count_macs(G) + saved_g) / 1e9 == pytest.approx(21.12, abs=0.005)
    assert (count_macs(D) + saved_d) / 1e9 == pytest.approx(10.84, abs=0.005)


def test_a_summary_leaves_the_network_alone() -> None:
    G = Generator(resolution=32, num_classes=3, ch=2, dim_z=8, attention=())
    before = {name: tensor.clone() for name, tensor in G.state_dict().items()}
    summary(G)
    count_macs(G)
    assert all(torch.equal(tensor, before[name]) for name, tensor in G.state_dict().items())
    assert G.training
