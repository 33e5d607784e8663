"""What settings of stabilisers contradict each other, or the loss, with the reason.

A condition that can never hold, or holds always, is a mistake like any other (docs/stabilisers.md).
"""

from collections.abc import Iterator

from gansmith.config.fields import images, is_some
from gansmith.config.schema import Config
from gansmith.config.stability import SIGNED, PretrainConfig, level

ANY_SIGN = {"d": ("wasserstein",), "g": ("wasserstein", "hinge")}  # losses that are no distance from 0


def contradictions(config: Config) -> Iterator[tuple[str, str]]:
    """Problems of `stabilise`, `head` and `pretrain`, each with the setting it is said of."""
    yield from _of_levels(config)
    yield from _of_gates(config)
    yield from _of_fakes(config)
    yield from _of_heads(config)
    yield from _of_pretraining(config)
    if config.stabilise.critic_plateau is not None and config.optim.d_steps < 2:
        yield (
            "stabilise.critic_plateau",
            f"with optim.d_steps {config.optim.d_steps} there is no loss to fall from: set optim.d_steps to "
            "the most D phases there may be, e.g. 5",
        )
    for name, every in (("r1", config.penalty.r1_every), ("r2", config.penalty.r2_every)):
        on = getattr(config.penalty, name) or (name == "r1" and config.guard.penalty_r1)
        if config.stabilise.critic_plateau is not None and on and every > 1:
            yield (
                "stabilise.critic_plateau",
                f"penalty.{name}_every {every} makes D's loss rise and fall by the penalty's turn, which is "
                f"no plateau: set penalty.{name}_every to 1",
            )
    if config.stabilise.clip_weights is not None and config.stabilise.clamp_d is not None:
        yield "stabilise.clamp_d", "D's weights are clipped already (stabilise.clip_weights); choose one"
    if config.stabilise.clip_weights is not None and config.model.spectral_d:
        yield (
            "stabilise.clip_weights",
            "spectral norm divides D's weights by their largest singular value, whatever they are clipped "
            "to: set model.spectral_d false, or leave it out",
        )


def _of_levels(config: Config) -> Iterator[tuple[str, str]]:
    stabilise, objective = config.stabilise, config.loss.objective
    for name, letter in (("flood_d", "d"), ("flood_g", "g"), ("stop_d", "d"), ("stop_g", "d")):
        value = getattr(stabilise, name)
        if value is None:
            continue
        number, relative = level(value)
        of_a_sign = objective not in ANY_SIGN[letter] and ":" not in objective
        if of_a_sign and (number < 0 or (name == "stop_g" and number == 0)):
            what = "G is always left out" if name == "stop_g" else "this never acts"
            yield (
                f"stabilise.{name}",
                f"{value}: L_{letter.upper()} of {objective} does not come below 0, so that {what}; give a "
                "level above 0",
            )
        elif relative and objective in ANY_SIGN[letter]:
            yield (
                f"stabilise.{name}",
                f"{value} is a multiple of L_{letter.upper()}'s running mean, which {objective} lets lie on "
                "either side of 0: give a number",
            )
        elif relative and name.startswith("flood") and number >= 1:
            yield (
                f"stabilise.{name}",
                f"{value} reverses the gradient at the loss's own mean, which then rises for ever; give "
                "less than 1x",
            )
        elif name == "flood_d" and objective == "wasserstein" and number >= 0:
            yield (
                "stabilise.flood_d",
                f"a critic's loss lies below 0 as soon as it is of use; flooded at {value} it never learns",
            )
    if (stop := _at_most(stabilise.stop_d, stabilise.flood_d)) is not None:
        yield (
            "stabilise.stop_d",
            f"{stop} is never reached: flooded at {stabilise.flood_d}, L_D does not come below that; give a "
            "higher one, or leave one of them out",
        )
    for name, other in (("flood_d", stabilise.flood_d), ("stop_d", stabilise.stop_d)):
        if (stop := _at_most(stabilise.stop_g, other)) is not None:
            why = (
                "L_D flooded at that lies above it always, and G is never trained"
                if name == "flood_d"
                else "between the two neither network is trained, and nothing changes any more"
            )
            yield "stabilise.stop_g", f"{stop} with stabilise.{name} {other}: {why}; give a higher one"


def _at_most(value: float | str | None, other: float | str | None) -> float | str | None:
    """The value, where both are given in one kind and it is no larger than the other."""
    if value is None or other is None:
        return None
    (number, relative), (limit, also) = level(value), level(other)
    return value if relative == also and number <= limit else None


def _of_gates(config: Config) -> Iterator[tuple[str, str]]:
    gates = {"gate_d": config.stabilise.gate_d, "gate_g": config.stabilise.gate_g}
    objective = config.loss.objective
    for name, value in gates.items():
        if value is not None and objective not in SIGNED and ":" not in objective:
            yield (
                f"stabilise.{name}",
                f"{objective} does not tell real from fake by the sign of D's logits, so that D has no "
                "accuracy; leave it out",
            )
    above, below = gates["gate_d"], gates["gate_g"]
    if above is not None and not 0.5 <= above < 1:
        why = "guessing is right half of the time: D would never learn" if above < 0.5 else "nothing is above"
        yield "stabilise.gate_d", f"{above:g}: {why}; give 0.5 or more and less than 1, e.g. 0.8"
    if below is not None and not 0 < below < 1:
        why = "nothing is below" if below <= 0 else "G would wait for a D that is never wrong"
        yield "stabilise.gate_g", f"{below:g}: {why}; give more than 0 and less than 1, e.g. 0.6"
    if above is not None and below is not None and below > above:
        yield (
            "stabilise.gate_g",
            f"{below:g} with stabilise.gate_d {above:g}: between the two neither network is trained, and "
            "nothing changes any more; give a lower one",
        )


def _of_fakes(config: Config) -> Iterator[tuple[str, str]]:
    """Top-k and replay."""
    stabilise, objective = config.stabilise, config.loss.objective
    for name in ("top_k", "replay"):
        if getattr(stabilise, name) is not None and ":" in objective:
            yield (
                f"stabilise.{name}",
                f"is part of gansmith's own losses; {objective} chooses its fakes itself",
            )
    if stabilise.top_k is not None and objective == "wasserstein":
        yield (
            "stabilise.top_k",
            "a critic estimates a distance between all reals and all fakes; of the best fakes alone it is no "
            "distance that G could lessen: leave it out",
        )
    if stabilise.top_k is not None and config.bn.group == 1:
        yield "stabilise.top_k", "chooses within BatchNorm groups, and bn.group is 1: make it larger"
    if stabilise.replay is not None and objective == "relativistic":
        yield (
            "stabilise.replay",
            "relativistic compares a real with the fake of its own class",
        )


def _of_heads(config: Config) -> Iterator[tuple[str, str]]:
    head, model = config.head, config.model
    terms = {
        name: value
        for name in ("classify_d", "classify_g", "rotate_d", "rotate_g", "contrast_d")
        if (value := getattr(head, name)) is not None
    }
    for name in terms:
        if model.discriminator is not None:
            yield f"head.{name}", f"needs gansmith's own D, and model.discriminator is {model.discriminator}"
        elif ":" in config.loss.objective:
            yield f"head.{name}", f"is part of gansmith's own losses; {config.loss.objective} is not one"
    if model.dropout_d and model.discriminator is not None:
        yield "model.dropout_d", f"is built into gansmith's own D; {model.discriminator} has its own"
    for kind in ("classify", "rotate"):
        if terms.get(f"{kind}_g") and not terms.get(f"{kind}_d"):
            yield (
                f"head.{kind}_g",
                f"G would learn from a head that D does not train: set head.{kind}_d, e.g. 1.0",
            )
    for name in ("classify_d", "classify_g"):
        if name in terms and not model.conditional:
            yield f"head.{name}", "there are no classes to tell: it needs model.conditional: true"
        elif name in terms and config.data.labels == "random":
            yield f"head.{name}", "labels are drawn at random (data.labels): images do not tell them"
    if not head.projection and (not model.conditional or "classify_d" not in terms):
        why = "there are no classes" if not model.conditional else "then nothing tells G what a class is"
        yield "head.projection", f"{why}: leave it true, or set head.classify_d and head.classify_g"
    blit = config.augment.ada_target is not None and "blit" in config.augment.ada_transforms
    if blit and {"rotate_d", "rotate_g"} & terms.keys():
        yield "augment.ada_transforms", "blit turns images too, so that head.rotate_* cannot tell by what"
    if "contrast_d" in terms and not head.contrast_transforms:
        yield "head.contrast_transforms", "is empty: both views are the same image"
    if "contrast_d" in terms and config.bn.group == 1:
        yield "head.contrast_d", "tells images within BatchNorm groups apart, and bn.group is 1"


def _of_pretraining(config: Config) -> Iterator[tuple[str, str]]:
    pretrain, nothing = config.pretrain, PretrainConfig()
    alone = is_some(pretrain.generator)
    if config.init.source is not None and (alone or is_some(pretrain.discriminator)):
        yield "pretrain", "a run from given weights has been trained already (--init-from): leave it out"
    for name in ("features", "weights", "pixels"):
        if not alone and getattr(pretrain, name) != getattr(nothing, name):
            yield f"pretrain.{name}", "is of G's pretraining: it needs pretrain.generator, e.g. 200k"
    amounts = (pretrain.generator, pretrain.discriminator, config.train.duration)
    if alone and config.data.random_crop:
        yield (
            "pretrain.generator",
            "teaches G every image from one latent of its own, and data.random_crop shows another part each "
            "time: set it to false, or leave this out",
        )
    if not any(str(amount).strip().endswith(("ep", "plateau")) for amount in amounts):
        first, second, duration = (images(amount, 1) for amount in amounts)
        if 0 < first + second >= duration:
            yield (
                "pretrain.generator",
                f"{pretrain.generator} and pretrain.discriminator {pretrain.discriminator} leave nothing of "
                f"train.duration {config.train.duration} for both networks",
            )
