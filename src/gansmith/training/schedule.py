"""Learning rates as a function of images seen."""

import math

from gansmith.config import Config, images


def factor(config: Config, images_seen: int, epoch: int) -> float:
    """What both learning rates are multiplied by (optim.schedule, optim.warmup). epoch: images per epoch."""
    optim = config.optim
    warmup = images(optim.warmup, epoch)
    rising = min(1.0, (images_seen + 1) / warmup) if warmup else 1.0
    if optim.schedule == "steps":
        passed = {images(at, epoch): value for at, value in optim.schedule_steps.items()}
        reached = [at for at in passed if at <= images_seen]
        return rising * (passed[max(reached)] if reached else 1.0)
    end = images(optim.schedule_end if optim.schedule_end is not None else config.train.duration, epoch)
    progress = min(1.0, images_seen / end)
    falling = {"constant": 1.0, "linear": 1.0 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}
    return rising * falling[optim.schedule]


def alpha(config: Config, images_seen: int) -> float:
    """How far what a promotion added has come in: a line from 0 at `fade_start` to 1 (Karras et al. 2018)."""
    since = images_seen - config.model.fade_start
    return 1.0 if since >= config.model.fade_images else max(since, 0) / config.model.fade_images
