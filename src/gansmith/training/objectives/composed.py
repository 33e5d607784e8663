"""An adversarial loss with everything that a configuration adds to it: what D is shown, and what D pays for.

One micro-batch at a time, from means over images only, so that micro-batches and processes average to what
the whole batch gives. What it remembers changes in `settle` alone, once per step.
"""

from functools import partial

import torch
from torch import Tensor, nn

from gansmith.config import Config, images
from gansmith.training.objectives import ada, diffaugment, penalties, replay, topk
from gansmith.training.objectives.base import Images, MicroBatch, Terms, drawn
from gansmith.training.objectives.heads import Heads
from gansmith.training.objectives.losses import LOSSES


def asked(config: Config) -> bool:
    """Whether a configuration wants more than a plain function: another loss by name, or a term beside it."""
    penalty, augment = config.penalty, config.augment
    terms = (
        penalty.r1, penalty.r2, penalty.gradient_penalty, penalty.lecam,
        penalty.consistency_real, penalty.consistency_fake, augment.ada_target,
        config.stabilise.gate_d, config.stabilise.gate_g, config.stabilise.top_k, config.stabilise.replay,
    )  # fmt: skip
    named = config.loss.objective in LOSSES and config.loss.objective != "hinge"
    others = bool(augment.diffaugment) or Heads(config.head).asked
    return named or others or any(term is not None for term in terms)


class Composed:
    """An objective: `loss.objective` by name with `penalty.*`, `augment.*` and `head.*`, with top-k and
    replayed fakes, and with what gates have to know.

    Everything D sees, in both phases, has been augmented; penalties too are taken there. Only the two views
    of a real that `head.contrast_d` compares are augmented in their own way alone. Besides the losses it logs
    every term without its weight.
    """

    def __init__(self, config: Config, device: torch.device, epoch: int) -> None:
        self.loss = LOSSES[config.loss.objective]
        self.penalty, self.augmentation = config.penalty, config.augment
        self.needs_reals_in_g = self.loss.paired
        self.gated = config.stabilise.gate_d is not None or config.stabilise.gate_g is not None
        remembered: dict[str, Tensor] = {}
        if self.penalty.lecam is not None:
            remembered |= {f"lecam_{name}": torch.zeros(()) for name in ("real", "fake", "known")}
        if self.augmentation.ada_target is not None:
            remembered |= ada.memory(self.augmentation.ada_start_p)
        self.memory = {name: value.to(device) for name, value in remembered.items()}
        self.heads, self.least = Heads(config.head), config.stabilise.top_k
        self.decay = config.stabilise.top_k_decay
        self.top_k_every = max(1, images(config.stabilise.top_k_every, epoch))
        self.replay = replay.build(config, device, epoch)
        self.memory |= self.replay.memory if self.replay else {}

    def __call__(
        self, phase: str, G: nn.Module, D: nn.Module, micro: MicroBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self._of_d(G, D, micro) if phase == "d" else self._of_g(G, D, micro)

    def _of_g(self, G: nn.Module, D: nn.Module, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        y = micro.real_y if self.loss.paired else micro.y
        shown = {"fake": (self._shown(G(micro.z, y), "fake", micro), y)}
        shown |= self.heads.shown("g", shown, micro)
        logits, told = judged(D, shown, self.heads.asked)
        on_real = None
        if self.loss.paired:
            assert micro.real is not None
            with torch.no_grad():
                on_real = D(self._shown(micro.real, "real", micro), y)
        each, scalars = self.loss.of_g(logits["fake"], on_real), {}
        loss = each.mean()
        if self.least is not None:
            part = topk.share(self.least, self.decay, (micro.images_seen or 0) / self.top_k_every)
            loss, part = topk.mean_of_best(each, logits["fake"], part, G)
            scalars = {"top_k": loss.new_full((), part), "top_k_active": loss.new_full((), part < 1)}
        terms = self.heads.terms("g", told, shown, micro, G)
        return added(loss, terms, scalars | {"loss_g": loss})

    def _of_d(self, G: nn.Module, D: nn.Module, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        assert micro.real is not None
        y = micro.real_y if self.loss.paired else micro.y
        scalars: dict[str, Tensor] = {}
        # Fakes of a D phase carry no graph: D's gradient does not reach G.
        with torch.no_grad():
            fake = G(micro.z, y)
            if self.replay is not None:
                fake, y, scalars["replayed"] = self.replay.mixed(fake, y, micro)
            shown = {
                "real": (self._shown(micro.real, "real", micro), micro.real_y),
                "fake": (self._shown(fake, "fake", micro), y),
            }
            further = self._transformed(shown, micro) | self.heads.shown("d", shown, micro)
        logits, told = judged(D, shown | further, self.heads.asked)
        on_real, on_fake = logits["real"], logits["fake"]
        loss = self.loss.of_d(on_real, on_fake)
        scalars |= {"loss_d": loss, "d_real": on_real.mean(), "d_fake": on_fake.mean()}
        terms = self._of_logits(logits) | self._of_slopes(D, shown, micro)
        terms |= self.heads.terms("d", told, shown, micro, G)
        if self.gated:
            scalars["d_accuracy"] = torch.cat([on_real > 0, on_fake < 0]).float().mean()
        if self.augmentation.ada_target is not None:
            scalars |= {"ada_sign": on_real.sign().mean(), "ada_p": self.memory["ada_p"].clone()}
        return added(loss, terms, scalars)

    def _shown(self, x: Tensor, whose: str, micro: MicroBatch) -> Tensor:
        """Images as D gets to see them."""
        augment = self.augmentation
        if augment.diffaugment:
            uniform = partial(drawn(micro).uniform, f"diffaugment {whose}")
            return diffaugment.augment(x, augment.diffaugment, uniform)
        if augment.ada_target is not None:
            name, draws = f"ada {whose}", drawn(micro)
            numbers = draws.uniform(name, ada.UNIFORM), draws.normal(name, ada.NORMAL)
            return ada.augment(x, self.memory["ada_p"], augment.ada_transforms, *numbers)
        return x

    def _transformed(self, shown: dict[str, Images], micro: MicroBatch) -> dict[str, Images]:
        """What D's answer is to be consistent on."""
        penalty, draws = self.penalty, drawn(micro)
        transformed: dict[str, Images] = {}
        for whose, weight in (("real", penalty.consistency_real), ("fake", penalty.consistency_fake)):
            if weight is not None:
                x, y = shown[whose]
                uniform = partial(draws.uniform, f"consistency {whose}")
                x = diffaugment.augment(x, penalty.consistency_transforms, uniform)
                transformed[f"{whose} again"] = x, y
        return transformed

    def _of_logits(self, logits: dict[str, Tensor]) -> Terms:
        terms: Terms = {}
        penalty, memory = self.penalty, self.memory
        if penalty.lecam is not None:
            usual = memory["lecam_real"], memory["lecam_fake"]
            value = penalties.lecam(logits["real"], logits["fake"], *usual)
            terms["lecam"] = penalty.lecam * memory["lecam_known"], value
        for whose, weight in (("real", penalty.consistency_real), ("fake", penalty.consistency_fake)):
            if weight is not None:
                value = penalties.consistency(logits[whose], logits[f"{whose} again"])
                terms[f"consistency_{whose}"] = weight, value
        return terms

    def _of_slopes(self, D: nn.Module, shown: dict[str, Images], micro: MicroBatch) -> Terms:
        terms: Terms = {}
        penalty = self.penalty
        for name, whose, gamma, every in (
            ("r1", "real", penalty.r1, penalty.r1_every),
            ("r2", "fake", penalty.r2, penalty.r2_every),
        ):
            if gamma is not None and micro.turn % every == 0:
                x, y = shown[whose]
                if penalty.method == "exact":
                    squares = penalties.squared_slopes(D, x, y)
                else:
                    direction = drawn(micro).normal(name, *x.shape[1:])
                    squares = penalties.estimated_squared_slopes(D, x, y, direction, penalty.epsilon)
                terms[name] = gamma / 2 * every, squares.mean()
        if penalty.gradient_penalty is not None:
            share = drawn(micro).uniform("gradient penalty")
            (real, y), (fake, _) = shown["real"], shown["fake"]
            value = penalties.gradient_penalty(D, real, fake, y, share).mean()
            terms["gradient_penalty"] = penalty.gradient_penalty, value
        return terms

    def settle(self, phase: str, means: dict[str, Tensor], batch: int) -> None:
        """Takes note of a phase's scalars, averaged over its whole batch of so many images."""
        if phase != "d":
            return
        if self.replay is not None:
            self.replay.settle(batch)
        if self.penalty.lecam is not None:
            self._follow(means["d_real"], means["d_fake"])
        augment = self.augmentation
        if augment.ada_target is not None:
            ada.adapt(
                self.memory,
                means["ada_sign"],
                batch,
                target=augment.ada_target,
                every=augment.ada_every,
                images=images(augment.ada_images, 1),
            )

    @torch.no_grad()
    def _follow(self, real: Tensor, fake: Tensor) -> None:
        """LeCam's moving averages, which begin at the first values there are."""
        memory = self.memory
        finite = real.isfinite() & fake.isfinite()
        keep = torch.where(finite, memory["lecam_known"] * self.penalty.lecam_decay, 1.0)
        for name, value in (("lecam_real", real), ("lecam_fake", fake)):
            memory[name].mul_(keep).add_(torch.where(finite, (1 - keep) * value, 0.0))
        memory["lecam_known"].copy_(torch.maximum(memory["lecam_known"], finite.float()))


def added(loss: Tensor, terms: Terms, scalars: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss with its terms, and what is to be logged: the scalars, and every term without its weight."""
    for name, (weight, value) in terms.items():
        loss = loss + weight * value
        scalars[name] = value
    return loss, {name: value.detach() for name, value in scalars.items()}


def judged(
    D: nn.Module, shown: dict[str, Images], heads: bool
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """D's logits on several sets of images, in one forward, and what its heads say. Each set holds whole
    BatchNorm groups.
    """
    classes = [y for _, y in shown.values() if y is not None]
    given = torch.cat([x for x, _ in shown.values()]), torch.cat(classes) if classes else None
    logits, told = D(*given, heads=True) if heads else (D(*given), {})
    sizes = [len(x) for x, _ in shown.values()]
    parts = {name: output.split(sizes) for name, output in told.items()}
    of_heads = {name: {head: parts[head][i] for head in parts} for i, name in enumerate(shown)}
    return dict(zip(shown, logits.split(sizes))), of_heads
