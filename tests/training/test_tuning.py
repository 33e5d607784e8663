"""Ways to execute a step that change nothing but time and memory: recomputing, compiling, rewriting."""

import pytest
import torch

from gansmith.models import layers, spectral
from gansmith.models.biggan import Discriminator, Generator
from gansmith.models.layers import Attention, Conv
from gansmith.models.normalization import set_batch_norm_group
from gansmith.models.recompute import recompute_from
from gansmith.training import objectives, tuning


def players(family="biggan"):
    torch.manual_seed(0)
    common = {
        "family": family,
        "resolution": 32,
        "num_classes": 3,
        "channels": 1,
        "ch": 4,
        "attention": (16,),
    }
    G, D = Generator(dim_z=8, shared_dim=4, **common), Discriminator(**common)
    for net in (G, D):
        layers.set_channels_last(net)
        spectral.converge(net.train())
        for module in net.modules():
            if isinstance(module, Attention):
                module.gamma.data.fill_(0.5)
    set_batch_norm_group(G, 4)
    return G, D


def micro(count, seed=1):
    random = torch.Generator().manual_seed(seed)
    real = torch.rand(count, 1, 32, 32, generator=random) * 2 - 1
    y = torch.arange(count) % 3
    return objectives.MicroBatch(torch.randn(count, 8, generator=random), y, real, y)


def gradients(phase, G, D, inputs, dtype=torch.float32):
    player, other = (D, G) if phase == "d" else (G, D)
    spectral.set_trainable(player, True)
    spectral.set_trainable(other, False)
    for _, parameter, leaf in spectral.effective_parameters(player):
        parameter.grad = leaf.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        loss, _ = objectives.hinge(phase, G, D, inputs)
    loss.backward()
    return [loss.detach(), *(leaf.grad.clone() for _, _, leaf in spectral.effective_parameters(player))]


class Held:
    """Bytes that autograd holds between forward and backward."""

    def __init__(self):
        self.storages = {}

    def __call__(self, tensor):
        self.storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    def of(self, phase, G, D, inputs):
        self.storages = {}
        spectral.set_trainable(D, phase == "d")
        spectral.set_trainable(G, phase == "g")
        with torch.autograd.graph.saved_tensors_hooks(self, lambda tensor: tensor):
            loss, _ = objectives.hinge(phase, G, D, inputs)
        held = sum(self.storages.values())
        del loss
        return held


@pytest.mark.parametrize("family", ["biggan", "biggan-deep"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recomputed_blocks_give_the_same_gradients_bit_for_bit_and_hold_less(family, dtype):
    G, D = players(family)
    plain = {phase: gradients(phase, G, D, micro(8), dtype) for phase in "dg"}
    held = {phase: Held().of(phase, G, D, micro(8)) for phase in "dg"}
    for net in (G, D):
        assert recompute_from(net, 16) > 3
    for phase in "dg":
        again = gradients(phase, G, D, micro(8), dtype)
        assert all(torch.equal(a, b) for a, b in zip(plain[phase], again, strict=True))
        # Hooks of ours do not see what checkpoint keeps: the inputs of the blocks, at most 3 maps.
        assert Held().of(phase, G, D, micro(8)) < 0.5 * held[phase]


def test_recomputing_is_a_setting_of_a_run_and_changes_no_weight(tiny):
    from safetensors.torch import load_file

    runs = [
        tiny(f"run{side}", {"train.duration": 32, "train.checkpoint_from": side, "log.snapshot_every": 10**6})
        for side in (None, 8)
    ]
    a, b = (load_file(sorted((r / "checkpoints").iterdir())[-1] / "networks.safetensors") for r in runs)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_compiled_networks_compute_the_same_and_are_compiled_once(monkeypatch):
    plain = players()
    G, D = players()
    compiled = []

    def counting(graph, inputs):
        compiled.append(len(inputs))
        return graph.forward

    torch._dynamo.reset()
    for net in (G, D):
        net.compile(backend=counting, dynamic=False)
    for seed in (1, 2, 3):
        for phase in "dg":
            reference, found = (gradients(phase, *nets, micro(8, seed)) for nets in (plain, (G, D)))
            for a, b in zip(reference, found, strict=True):
                assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)
        spectral.refresh(G)
        spectral.refresh(D)
        for net in plain:
            spectral.refresh(net)
        if seed == 1:
            at_first = len(compiled)
    assert at_first >= 4  # G with and without gradients, D with and without those of its weights
    # A larger batch is more micro-batches, a later step has other weights: neither compiles again.
    for seed in range(4, 10):
        gradients("d", G, D, micro(8, seed))
    assert len(compiled) == at_first


def test_compile_is_for_cuda_unless_asked_or_fading():
    from gansmith import config as configuration

    def wanted(device, **settings):
        overrides = {key.replace("__", "."): value for key, value in settings.items()}
        config, _ = configuration.load(overrides=overrides)
        return tuning.wanted(config, torch.device(device))

    assert not wanted("cpu")
    assert wanted("cuda")
    assert wanted("cpu", train__compile=True)
    assert not wanted("cuda", train__compile=False)
    assert not wanted("cuda", model__fade="append")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_attention_is_attention(dtype):
    attention = Attention(32, None)
    layers.initialize(attention, "ortho")
    attention.gamma.data.fill_(0.7)
    x = torch.randn(2, 32, 8, 8)
    results = []
    for fused in (False, True):
        attention.fused = fused
        inputs = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = attention(inputs)
        results.append(
            (out, *torch.autograd.grad(out.float().square().sum(), [inputs, *attention.parameters()]))
        )
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2  # of the largest; bf16 keeps 8 bits
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() < tolerance * a.abs().max().clamp_min(1)


def test_fused_attention_differentiates_twice_by_the_plain_formula():
    from torch.nn.attention import SDPBackend, sdpa_kernel

    attention = Attention(16, None).double()
    layers.initialize(attention, "ortho")
    attention.gamma.data.fill_(0.7)
    attention.fused = True
    x = torch.randn(1, 16, 4, 4, dtype=torch.float64, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradgradcheck(attention, (x,))


@pytest.mark.parametrize("rewrite", [True, False])
def test_conv_rewrites_can_be_switched_and_agree(rewrite):
    convolution = Conv(6, 5, 3, None)
    layers.initialize(convolution, "ortho")
    x = torch.randn(2, 6, 8, 8)
    expected = convolution(layers.up(x)), layers.down(convolution(x))
    layers.set_conv_rewrites(convolution, rewrite)
    assert convolution._rewritten(x) is rewrite
    for found, reference in zip((convolution.of_upsampled(x), convolution.downsampled(x)), expected):
        assert (found - reference).abs().max() < 1e-5
