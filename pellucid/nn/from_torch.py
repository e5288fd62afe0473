"""The projections of a `torch.nn.MultiheadAttention`, in this package's layout."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["check_supported", "projections"]


def check_supported(source: nn.Module) -> None:
    """Raise unless `source` is a MultiheadAttention that does what it does with projections alone."""
    if not isinstance(source, nn.MultiheadAttention):
        raise TypeError(f"source: must be a torch.nn.MultiheadAttention, got {type(source).__name__}.")
    if source.bias_k is not None or source.bias_v is not None:
        raise ValueError("source: add_bias_kv=True is not supported, it adds a learned key and value.")
    if source.add_zero_attn:
        raise ValueError("source: add_zero_attn=True is not supported, it adds a key and value of zeros.")
    if source.kdim != source.vdim:
        raise ValueError(
            f"source: kdim {source.kdim} and vdim {source.vdim} differ, and keys and values come from one context here."
        )


def projections(source: nn.MultiheadAttention) -> dict[str, Tensor]:
    """Copies of the weights of `source` as a state dict of SelfAttention or CrossAttention."""
    state = dict(zip(_names("weight"), _weights(source), strict=True))
    state["output_projection.weight"] = source.out_proj.weight
    if source.in_proj_bias is not None:
        state |= zip(_names("bias"), source.in_proj_bias.chunk(3), strict=True)
        state["output_projection.bias"] = source.out_proj.bias
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _names(parameter: str) -> list[str]:
    return [f"{part}_projection.{parameter}" for part in ("query", "key", "value")]


def _weights(source: nn.MultiheadAttention) -> tuple[Tensor, ...]:
    if source.in_proj_weight is not None:
        return source.in_proj_weight.chunk(3)
    return source.q_proj_weight, source.k_proj_weight, source.v_proj_weight
