"""What settings of losses, penalties and augmentation contradict each other, with the reason."""

import difflib
from collections.abc import Iterator

from gansmith.config.schema import Config
from gansmith.config.stability import LOSSES, SIGNED


def contradictions(config: Config) -> Iterator[tuple[str, str]]:
    """loss.*, penalty.* and augment.*."""
    objective, penalty, augment = config.loss.objective, config.penalty, config.augment
    own = ":" in objective
    if not own and objective not in LOSSES:
        near = difflib.get_close_matches(objective, LOSSES, n=2)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        yield (
            "loss.objective",
            f"{objective!r} is unknown; {hint}There are {', '.join(LOSSES)}, and module:function",
        )
    of_slopes = (
        ("penalty.r1", penalty.r1),
        ("guard.penalty_r1", config.guard.penalty_r1),  # becomes the one above when the run goes back
        ("penalty.r2", penalty.r2),
        ("penalty.gradient_penalty", penalty.gradient_penalty),
    )
    for path, value in (
        *of_slopes,
        ("penalty.lecam", penalty.lecam),
        ("penalty.consistency_real", penalty.consistency_real),
        ("penalty.consistency_fake", penalty.consistency_fake),
        ("augment.diffaugment", augment.diffaugment or None),
        ("augment.ada_target", augment.ada_target),
    ):
        if own and value is not None:
            yield (
                path,
                f"is part of gansmith's own losses; {objective} decides itself what it adds "
                "(gansmith.training.objectives.penalties has the functions)",
            )
    for path, value in of_slopes:
        if config.model.family == "dcgan" and config.model.discriminator is None and value is not None:
            yield (
                path,
                "is about the slope of D at one image; dcgan's D has BatchNorm, through which it feels all",
            )
    if penalty.gradient_penalty is not None and penalty.method == "finite":
        yield "penalty.method", "finite differences give ‖∇D‖² on average, not the ‖∇D‖ of gradient_penalty"
    slopes = (penalty.r1, penalty.r2, penalty.gradient_penalty)
    clipped = config.stabilise.clip_weights is not None
    if penalty.gradient_penalty is not None and clipped:
        yield "penalty.gradient_penalty", "draws D's slope to 1, stabilise.clip_weights bounds it; choose one"
    bounded = config.model.spectral_d or clipped or config.model.discriminator is not None
    if objective == "wasserstein" and not bounded and all(not weight for weight in slopes):
        yield (
            "loss.objective",
            "wasserstein has no minimum while D's slope is unbounded: set penalty.gradient_penalty=10, "
            "stabilise.clip_weights=0.01 or model.spectral_d=true",
        )
    if penalty.lecam is not None and objective == "relativistic":
        yield (
            "penalty.lecam",
            "needs D to judge reals and fakes each by itself; relativistic fixes only their difference",
        )
    if not penalty.consistency_transforms and (
        penalty.consistency_real is not None or penalty.consistency_fake is not None
    ):
        yield "penalty.consistency_transforms", "is empty: D(x) and D(x) never differ"
    for name, on in (("d", config.model.spectral_d), ("g", config.model.spectral_g)):
        if getattr(penalty, f"sigma_{name}") is not None and not on:
            yield (
                f"penalty.sigma_{name}",
                f"takes σ0 from spectral norm: it needs model.spectral_{name}: true",
            )
    if augment.diffaugment and augment.ada_target is not None:
        yield "augment.ada_target", "ADA and augment.diffaugment both transform what D sees; choose one"
    if augment.ada_target is not None and not own and objective not in SIGNED:
        yield (
            "augment.ada_target",
            f"ADA follows the sign of D's logits, and {objective} does not tell real from fake by it: choose "
            f"one of {', '.join(SIGNED)}, or augment.diffaugment",
        )
    if augment.ada_target is None and augment.ada_start_p:
        yield "augment.ada_start_p", "is where ADA begins: it needs augment.ada_target, e.g. 0.6"
    if augment.ada_target is not None and not augment.ada_transforms:
        yield "augment.ada_transforms", "is empty: ADA has nothing to apply"
