"""A U-Net that, before its first step, answers louder to what tells a study's prompts apart."""

from __future__ import annotations

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

_KEYS_AND_VALUES = (".attn2.to_k.weight", ".attn2.to_v.weight")


@torch.no_grad()
def amplify_differences(unet: UNet2DConditionModel, states: Tensor, gain: float) -> None:
    """Multiply what cross-attention makes of differences between prompts; what it makes of their common part stays, in place.

    Two prompts that differ in the number of a cluster differ in a small part of their text states, and a training begins with
    answers that hardly differ. The common part is the span of the prompts' mean state at every token; keys and values are
    multiplied by `gain` in all directions that are orthogonal to it. They are linear in the states, so that the model stays an
    ordinary one: nothing about text or sampling changes.

    Parameters
    ----------
    states : of the distinct training prompts, (prompts, tokens, width).
    gain : 1 changes nothing.
    """
    mean = states.double().mean(0)
    _, sizes, directions = torch.linalg.svd(mean, full_matrices=False)
    common = directions[sizes > sizes[0] * max(mean.shape) * torch.finfo(states.dtype).eps]
    shared = common.T @ common
    scale = shared + gain * (torch.eye(len(shared), dtype=shared.dtype, device=shared.device) - shared)
    for name, weight in unet.named_parameters():
        if name.endswith(_KEYS_AND_VALUES):
            weight.copy_((weight.double() @ scale).to(weight.dtype))
