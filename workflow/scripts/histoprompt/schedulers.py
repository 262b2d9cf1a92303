"""Which schedulers there are, and which can follow which base model. Without torch: the workflow asks before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from histoprompt.errors import InputError

SCHEDULERS = ("dpm++", "unipc", "ddim", "pndm")


def check_scheduler(name: str, base: Mapping[str, Any], where: str = "config key `generator.sampling.scheduler`") -> None:
    """Refuse a scheduler that cannot sample from the model whose own scheduler's configuration is `base`.

    Raises
    ------
    InputError : an unknown name; or `pndm`, Stable Diffusion's own, for a model that predicts images or whose noise schedule
        ends in pure noise. It begins with a step that needs some image in the noise.
    """
    if name not in SCHEDULERS:
        raise InputError(where, found=repr(name), expected=f"one of {', '.join(SCHEDULERS)}", remedy="correct the name")
    if name == "pndm" and (base.get("rescale_betas_zero_snr") or base.get("prediction_type") == "sample"):
        raise InputError(
            where,
            found="pndm, for a base model that predicts images or whose schedule ends in pure noise (`rescale_betas_zero_snr`)",
            expected="a scheduler that knows such a model",
            remedy="choose dpm++, unipc or ddim",
        )
