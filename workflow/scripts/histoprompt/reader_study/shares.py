"""Can the images of a reader study be shared out evenly? Imports nothing heavy: the study's check asks before any job runs."""

from __future__ import annotations

from math import lcm

from histoprompt.errors import InputError


def check_shares(where: str, images: int, *, arms: int, classes: int, blocks: int) -> None:
    """Refuse a number of images that is no multiple of 2 * arms * classes and of 2 * blocks.

    Parameters
    ----------
    where : named in the message.
    classes : 0 if they are not known yet.
    """
    step = lcm(2 * arms * max(classes, 1), 2 * blocks)
    if images % step:
        near = max(images // step, 1) * step
        raise InputError(
            where,
            found=f"{images} images, for {arms} arms, {classes or 'unknown'} classes and {blocks} blocks",
            expected=f"a multiple of {step}: half real, half synthetic in every block, equally many of every arm and class",
            remedy=f"set it to {near} or {near + step}, or change the arms or blocks",
        )
