"""What settings of stabilisers contradict each other, or the loss, with the reason.

A condition that can never hold, or holds always, is a mistake like any other (docs/stabilisers.md).
"""

from collections.abc import Iterator

from gansmith.config.schema import Config
from gansmith.config.stability import level

# Losses of D whose logits say real or fake by their sign; an objective of one's own says itself.
SIGNED = ("hinge", "non_saturating", "least_squares")
ANY_SIGN = {"d": ("wasserstein",), "g": ("wasserstein", "hinge")}  # losses that are no distance from 0


def contradictions(config: Config) -> Iterator[tuple[str, str]]:
    """Problems of `stabilise`, each with the setting it is said of."""
    yield from _of_levels(config)
    yield from _of_gates(config)
    if config.stabilise.critic_plateau is not None and config.optim.d_steps < 2:
        yield (
            "stabilise.critic_plateau",
            f"with optim.d_steps {config.optim.d_steps} there is no loss to fall from: set optim.d_steps to "
            "the most D phases there may be, e.g. 5",
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
        if relative and objective in ANY_SIGN[letter]:
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
