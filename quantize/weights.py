"""Which tensors FP8 is for: the weights of linear layers and convolutions, which are nearly all of a model's bytes."""

from collections.abc import Iterable

from ckptool.errors import Refused
from ckptool.tensor import Tensor

# Parts of names of weights with two dimensions that belong to no linear layer: they are looked up by row.
EMBEDDINGS = frozenset({
    "token_embedding", "position_embedding", "embeddings", "embedding", "embed_tokens", "embedding_table", "shared",
    "relative_attention_bias", "pos_embed", "wte", "wpe", "word_embeddings", "position_embeddings", "style_embedder",
})  # fmt: skip

PREFIX = "model.diffusion_model."
"""In front of the diffusion model inside a checkpoint; without it the file is the model alone."""
# Names that ComfyUI translates before it loads them; it knows no scales under those.
TRANSLATED = frozenset({"down_blocks", "up_blocks", "mid_block", "single_transformer_blocks"})


def is_weight(tensor: Tensor) -> bool:
    """A weight of a linear layer or of a convolution: norms and biases have one dimension."""
    parts = tensor.name.split(".")
    return parts[-1] == "weight" and len(tensor.shape) >= 2 and EMBEDDINGS.isdisjoint(parts)


def is_linear(tensor: Tensor) -> bool:
    return is_weight(tensor) and len(tensor.shape) == 2


def scale_name(tensor: Tensor) -> str:
    """Where ComfyUI looks for the scale of a weight. Source: ComfyUI, comfy/ops.py (`scaled_fp8_ops`)."""
    return f"{tensor.name.removesuffix('weight')}scale_weight"


def scaled_prefix(tensors: Iterable[Tensor]) -> str:
    """The prefix of the diffusion model of which `tensors` are the weights. Raises Refused where no scale is read."""
    names = [tensor.name for tensor in tensors]
    if not names:
        raise Refused(
            "--scale: there is no linear layer of a diffusion model that could be scaled",
            "ComfyUI reads scales of those alone: leave --scale out",
        )
    if any(not TRANSLATED.isdisjoint(name.split(".")) for name in names):
        raise Refused(
            "--scale: the names are those of diffusers, under which ComfyUI reads no scale",
            "leave --scale out, or take the checkpoint in its original naming",
        )
    prefixes = {PREFIX if name.startswith(PREFIX) else "" for name in names}
    if len(prefixes) > 1:
        raise Refused("--scale: some of the diffusion model's names begin otherwise", "leave --scale out")
    return prefixes.pop()
