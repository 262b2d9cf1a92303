"""Half precision on a CPU, where one of PyTorch's kernels for it is slower than that for single precision."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


def attend_in_single_precision(model: nn.Module) -> None:
    """Let the attention of a U-Net's transformer blocks compute in float32, whatever autocast says.

    On a CPU the backward pass of bfloat16 attention takes a third of a training step, more than both conversions and the
    float32 kernel (docs/PERFORMANCE.md). Results come closer to those of single precision. On a GPU leave the model as it is.
    """
    for module in model.modules():
        if isinstance(module, Attention) and _plain(module):
            module.set_processor(_SinglePrecisionAttention())  # type: ignore[arg-type]


def _plain(attention: Any) -> bool:
    parts = (attention.group_norm, attention.spatial_norm, attention.norm_q, attention.norm_cross)
    return isinstance(attention.processor, AttnProcessor2_0) and not attention.residual_connection and not any(parts)


class _SinglePrecisionAttention(AttnProcessor2_0):  # type: ignore[misc]
    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *arguments: Any,
        **keywords: Any,
    ) -> Tensor:
        if attention_mask is not None:
            result: Tensor = super().__call__(
                attn, hidden_states, encoder_hidden_states, attention_mask, *arguments, **keywords
            )
            return result
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        with torch.autocast(query.device.type, enabled=False):
            heads = [t.unflatten(-1, (attn.heads, -1)).transpose(1, 2).float() for t in (query, key, value)]
            mixed = scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2).to(query.dtype)
        dropped: Tensor = attn.to_out[1](attn.to_out[0](mixed))
        return dropped
