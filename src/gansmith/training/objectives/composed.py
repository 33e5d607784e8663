"""An adversarial loss with everything that a configuration adds to it: what D is shown, and what D pays for.

One micro-batch at a time, from means over images only, so that micro-batches and processes average to what
the whole batch gives. What it remembers changes in `settle` alone, once per step.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from gansmith.config import Config, images
from gansmith.training.draws import Draws
from gansmith.training.objectives import ada, diffaugment, penalties
from gansmith.training.objectives.base import MicroBatch
from gansmith.training.objectives.losses import LOSSES

Images = tuple[Tensor, Tensor | None]  # images and their classes
Terms = dict[str, tuple[Tensor | float, Tensor]]  # what is added to a loss, by name: weight and value


def asked(config: Config) -> bool:
    """Whether a configuration wants more than a plain function: another loss by name, or a term beside it."""
    penalty, augment = config.penalty, config.augment
    terms = (
        penalty.r1, penalty.r2, penalty.gradient_penalty, penalty.lecam,
        penalty.consistency_real, penalty.consistency_fake, augment.ada_target,
        config.stabilise.gate_d, config.stabilise.gate_g,
    )  # fmt: skip
    named = config.loss.objective in LOSSES and config.loss.objective != "hinge"
    return named or bool(augment.diffaugment) or any(term is not None for term in terms)


class Composed:
    """An objective: `loss.objective` by name with `penalty.*` and `augment.*`, and what gates have to know.

    Everything D sees, in both phases, has been augmented; penalties too are taken there. Besides the losses
    it logs every term without its weight.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
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

    def __call__(
        self, phase: str, G: nn.Module, D: nn.Module, micro: MicroBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self._of_d(G, D, micro) if phase == "d" else self._of_g(G, D, micro)

    def _of_g(self, G: nn.Module, D: nn.Module, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        y = micro.real_y if self.loss.paired else micro.y
        on_fake, on_real = D(self._shown(G(micro.z, y), "fake", micro), y), None
        if self.loss.paired:
            assert micro.real is not None
            with torch.no_grad():
                on_real = D(self._shown(micro.real, "real", micro), y)
        loss = self.loss.of_g(on_fake, on_real).mean()
        return loss, {"loss_g": loss.detach()}

    def _of_d(self, G: nn.Module, D: nn.Module, micro: MicroBatch) -> tuple[Tensor, dict[str, Tensor]]:
        assert micro.real is not None
        y = micro.real_y if self.loss.paired else micro.y
        # Fakes of a D phase carry no graph: D's gradient does not reach G.
        with torch.no_grad():
            fake = self._shown(G(micro.z, y), "fake", micro), y
            real = self._shown(micro.real, "real", micro), micro.real_y
            again = self._transformed({"real": real, "fake": fake}, micro)
        on_real, on_fake, *on_again = judged(D, [real, fake, *again.values()])
        loss = self.loss.of_d(on_real, on_fake)
        scalars = {"loss_d": loss, "d_real": on_real.mean(), "d_fake": on_fake.mean()}
        terms = self._of_logits(on_real, on_fake, dict(zip(again, on_again)))
        terms |= self._of_slopes(D, {"real": real, "fake": fake}, micro)
        for name, (weight, value) in terms.items():
            loss = loss + weight * value
            scalars[name] = value
        if self.gated:
            scalars["d_accuracy"] = torch.cat([on_real > 0, on_fake < 0]).float().mean()
        if self.augmentation.ada_target is not None:
            scalars |= {"ada_sign": on_real.sign().mean(), "ada_p": self.memory["ada_p"].clone()}
        return loss, {name: value.detach() for name, value in scalars.items()}

    def _shown(self, x: Tensor, whose: str, micro: MicroBatch) -> Tensor:
        """Images as D gets to see them."""
        augment = self.augmentation
        if augment.diffaugment:
            uniform = partial(_draws(micro).uniform, f"diffaugment {whose}")
            return diffaugment.augment(x, augment.diffaugment, uniform)
        if augment.ada_target is not None:
            name, draws = f"ada {whose}", _draws(micro)
            numbers = draws.uniform(name, ada.UNIFORM), draws.normal(name, ada.NORMAL)
            return ada.augment(x, self.memory["ada_p"], augment.ada_transforms, *numbers)
        return x

    def _transformed(self, shown: dict[str, Images], micro: MicroBatch) -> dict[str, Images]:
        """What D's answer is to be consistent on."""
        penalty, draws = self.penalty, _draws(micro)
        transformed: dict[str, Images] = {}
        for whose, weight in (("real", penalty.consistency_real), ("fake", penalty.consistency_fake)):
            if weight is not None:
                x, y = shown[whose]
                uniform = partial(draws.uniform, f"consistency {whose}")
                transformed[whose] = diffaugment.augment(x, penalty.consistency_transforms, uniform), y
        return transformed

    def _of_logits(self, on_real: Tensor, on_fake: Tensor, on_again: dict[str, Tensor]) -> Terms:
        terms: Terms = {}
        penalty, memory = self.penalty, self.memory
        if penalty.lecam is not None:
            value = penalties.lecam(on_real, on_fake, memory["lecam_real"], memory["lecam_fake"])
            terms["lecam"] = penalty.lecam * memory["lecam_known"], value
        for whose, logits, weight in (
            ("real", on_real, penalty.consistency_real),
            ("fake", on_fake, penalty.consistency_fake),
        ):
            if weight is not None:
                terms[f"consistency_{whose}"] = weight, penalties.consistency(logits, on_again[whose])
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
                    direction = _draws(micro).normal(name, *x.shape[1:])
                    squares = penalties.estimated_squared_slopes(D, x, y, direction, penalty.epsilon)
                terms[name] = gamma / 2 * every, squares.mean()
        if penalty.gradient_penalty is not None:
            share = _draws(micro).uniform("gradient penalty")
            (real, y), (fake, _) = shown["real"], shown["fake"]
            value = penalties.gradient_penalty(D, real, fake, y, share).mean()
            terms["gradient_penalty"] = penalty.gradient_penalty, value
        return terms

    def settle(self, phase: str, means: dict[str, Tensor], batch: int) -> None:
        """Takes note of a phase's scalars, averaged over its whole batch of so many images."""
        if phase != "d":
            return
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


def _draws(micro: MicroBatch) -> Draws:
    assert micro.draws is not None
    return micro.draws


def judged(D: nn.Module, shown: Sequence[Images]) -> list[Tensor]:
    """D's logits on several sets of images, in one forward. Each set holds whole BatchNorm groups."""
    classes = [y for _, y in shown if y is not None]
    logits = D(torch.cat([x for x, _ in shown]), torch.cat(classes) if classes else None)
    return list(logits.split([len(x) for x, _ in shown]))
