"""The training loss of a diffusion model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def diffusion_loss(
    unet: Callable[..., Any],
    schedule: Any,
    latents: Tensor,
    noise: Tensor,
    moments: Tensor,
    states: Tensor,
    *,
    min_snr_gamma: float | None = None,
) -> Tensor:
    """Mean squared error of what the model predicts: noise (Ho et al. 2020), velocity or image (Salimans and Ho 2022).

    Parameters
    ----------
    schedule : a `DDPMScheduler`, whose prediction type says which.
    latents : scaled, float32 (n, z, h, w); `noise` alike.
    moments : diffusion times, int64 (n,).
    states : text states, (n, tokens, width).
    min_snr_gamma : see `min_snr_weights`; None weighs all times alike.
    """
    errors = diffusion_errors(unet, schedule, latents, noise, moments, states)
    if min_snr_gamma is None:
        return errors.mean()
    return (errors * min_snr_weights(schedule, moments, min_snr_gamma)).mean()


def diffusion_errors(
    unet: Callable[..., Any], schedule: Any, latents: Tensor, noise: Tensor, moments: Tensor, states: Tensor
) -> Tensor:
    """The squared error (n,) of each sample, arguments as those of `diffusion_loss`."""
    noisy = schedule.add_noise(latents, noise, moments)
    guess = unet(noisy, moments, states, return_dict=False)[0].float()
    kind = schedule.config.prediction_type
    target = latents if kind == "sample" else noise if kind == "epsilon" else schedule.get_velocity(latents, noise, moments)
    errors: Tensor = (guess - target).square().mean((1, 2, 3))
    return errors


def signal_to_noise(schedule: Any, moments: Tensor) -> Tensor:
    """SNR = a / (1 - a), float64 (n,), a the share of the image in the noisy input."""
    share: Tensor = schedule.alphas_cumprod.to(moments.device)[moments].double()
    return share / (1 - share)


def min_snr_weights(schedule: Any, moments: Tensor, gamma: float) -> Tensor:
    """min(SNR, gamma) on the scale of the predicted image (Hang et al. 2023), as weights of the model's own target.

    An error of the noise is one of the image times SNR, an error of the velocity one times SNR + 1.
    """
    snr = signal_to_noise(schedule, moments)
    capped = snr.clamp(max=gamma)
    kind = schedule.config.prediction_type
    if kind == "sample":
        return capped.float()
    if kind == "v_prediction":
        return (capped / (snr + 1)).float()
    return torch.where(snr > 0, capped / snr, 1.0).float()
