"""Watches a network while it runs: what every block gives, and the largest value of every layer."""

import re
from math import inf, isnan
from typing import TYPE_CHECKING, Any

from ckptool.verify.configs import DEEPEST
from ckptool.verify.ldm_extra import Weights
from ckptool.verify.networks import Network, canonical

if TYPE_CHECKING:
    import torch

HALF_MAX = 65504.0
"""The largest finite F16: a layer that gives more than this gives infinity in half precision."""
ADVICE: dict[str, str] = {
    "vae": "keep the VAE in F32: ckptool fp16 --vae keep",
    "unet": "do not run this UNet in half precision; BF16 has the range",
    "control": "do not run this ControlNet in half precision; BF16 has the range",
    "text_encoder": "run the text encoder in F32 or BF16",
    "text_encoder_2": "run the text encoder in F32 or BF16",
}
KEPT = 1 << 22
"""Numbers of a block's output that are kept at most; of larger pictures every second, third … row and column."""

BLOCK = re.compile(
    r"(conv_in|time_embedding|add_embedding|class_embedding|mid_block|conv_out|embeddings|final_layer_norm"
    r"|text_projection|quant_conv|post_quant_conv|(down|up)_blocks\.\d+|encoder\.layers\.\d+|controlnet_cond_embedding"
    r"|controlnet_down_blocks\.\d+|controlnet_mid_block"
    r"|(encoder|decoder)\.(conv_in|mid_block|conv_out|(down|up)_blocks\.\d+))"
)
"""The parts that a network is compared by, by whole names."""


def block_of(name: str) -> str:
    """The part that a weight belongs to; of one that belongs to none, its layer."""
    parts = name.split(".", DEEPEST)
    heads = (".".join(parts[:end]) for end in range(1, min(len(parts), 4)))
    return next((head for head in heads if BLOCK.fullmatch(head)), name.rpartition(".")[0])


class Probe:
    """Hooks on every layer of a network, for one pass or several."""

    def __init__(self, network: Network) -> None:
        self.blocks: dict[str, torch.Tensor] = {}
        self.largest: dict[str, float] = {}
        self._last: torch.Tensor | None = None
        for name, module in network.module.named_modules():
            name = canonical(name)
            if name and (module._parameters or any(True for _ in module.children())):
                module.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> Any:
        block = BLOCK.fullmatch(name) is not None

        def after(_: Any, __: Any, output: Any) -> None:
            tensor = first_tensor(output)
            if tensor is None:
                return
            # What only hands on its last part's output is no layer of its own; a sum behind it is.
            if tensor is not self._last:
                self.largest[name] = max(self.largest.get(name, 0.0), extreme(tensor))
                self._last = tensor
            if block and name not in self.blocks:
                self.blocks[name] = kept(tensor)

        return after


def first_tensor(output: Any) -> "torch.Tensor | None":
    import torch

    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, dict):
        output = tuple(output.values())
    if isinstance(output, tuple | list) and output and isinstance(output[0], torch.Tensor):
        return output[0]
    return None


def extreme(tensor: "torch.Tensor") -> float:
    """The largest absolute value; NaN counts as beyond everything."""
    if not tensor.numel() or not tensor.is_floating_point():
        return 0.0
    low, high = tensor.aminmax()
    largest = max(-float(low), float(high))
    return inf if isnan(largest) or isnan(float(low)) else largest


def kept(tensor: "torch.Tensor") -> "torch.Tensor":
    """The output, or an even sample of it that has every channel."""
    step = 1
    while tensor.numel() // step**2 > KEPT and tensor.dim() == 4:
        step += 1
    return (tensor[..., ::step, ::step] if step > 1 else tensor).detach().cpu().clone()


def spelled(weights: Weights) -> dict[str, str]:
    """What the file calls each layer and block: what the names of all tensors below it have in common."""
    found: dict[str, list[str]] = {}
    for name, weight in weights.items():
        own = weight.tensor.name.split(".")
        parts = name.split(".", DEEPEST * 2)
        for end in range(1, len(parts)):
            key = ".".join(parts[:end])
            found[key] = common(found[key], own) if key in found else own[:-1] or own
    return {name: ".".join(parts) for name, parts in found.items()}


def common(some: list[str], other: list[str]) -> list[str]:
    length = next((i for i, (a, b) in enumerate(zip(some, other, strict=False)) if a != b), min(len(some), len(other)))
    return some[:length]


def activations(largest: dict[str, float], weights: Weights) -> tuple[tuple[str, float], ...]:
    """Each layer in the file's own naming with its largest absolute value, in the order that they ran."""
    names = spelled(weights)
    return tuple((own_name(layer, names), value) for layer, value in largest.items())


def own_name(layer: str, names: dict[str, str]) -> str:
    """The file's name of a layer; of one that has no weights that of the block around it, and its own place there."""
    head, rest = layer, ""
    while head and not names.get(head):
        head, _, last = head.rpartition(".")
        rest = f".{last}{rest}"
    return f"{names[head]}{rest}" if head else layer
