"""A hypernetwork on a UNet: small networks that change what the keys and values of attention are made from."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ckptool.convert.numbers import values
from ckptool.tensor import Plan, Tensor
from ckptool.verify.configs import Unknown

if TYPE_CHECKING:
    import torch

# Sources: AUTOMATIC1111/stable-diffusion-webui, modules/hypernetworks/hypernetwork.py.
PART = re.compile(r"(\d{1,5})\.([01])\.linear\.(\d{1,3})\.(weight|bias)")
KEYS = (".attn1.to_k", ".attn2.to_k")
VALUES = (".attn1.to_v", ".attn2.to_v")
ACTIVATIONS: dict[str, str] = {
    "relu": "relu", "leakyrelu": "leaky_relu", "elu": "elu", "swish": "hardswish", "tanh": "tanh", "sigmoid": "sigmoid",
    "softsign": "softsign", "hardswish": "hardswish", "mish": "mish", "gelu": "gelu", "silu": "silu", "selu": "selu",
    "softplus": "softplus", "relu6": "relu6", "celu": "celu", "hardtanh": "hardtanh", "logsigmoid": "logsigmoid",
    "tanhshrink": "tanhshrink", "softshrink": "softshrink", "hardshrink": "hardshrink", "hardsigmoid": "hardsigmoid",
}  # fmt: skip
"""The file's word -> the function of torch; `linear` is none."""

Layers = dict[int, dict[str, Tensor]]


def networks(plan: Plan) -> dict[tuple[int, int], Layers]:
    """(width, 0 for keys or 1 for values) -> its layers by number. Raises Unknown."""
    found: dict[tuple[int, int], Layers] = {}
    for tensor in plan.tensors:
        part = PART.fullmatch(tensor.name) if len(tensor.name) < 80 else None
        if part is not None:
            pair = found.setdefault((int(part[1]), int(part[2])), {})
            pair.setdefault(int(part[3]), {})[part[4]] = tensor
    if not found:
        raise Unknown("it holds no layers that are named by their width")
    return found


def said(plan: Plan, key: str) -> Any:
    """A setting of the file, from beside its tensors or from its metadata."""
    value = plan.structure.value if plan.structure is not None else None
    return value.get(key) if isinstance(value, dict) else plan.metadata.get(key)


def hypernetwork(plan: Plan) -> Callable[[Any], None]:
    """Puts the networks in front of every key and value of their width."""
    pairs = networks(plan)
    word = said(plan, "activation_func")
    name = None if word in (None, "linear", "None", "") else ACTIVATIONS.get(str(word).lower())
    if name is None and word not in (None, "linear", "None", ""):
        raise Unknown("its activation function is not known")
    last = said(plan, "activate_output") in (True, "True", "true")

    def prepare(network: Any) -> None:
        used = 0
        for path, layer in network.module.named_modules():
            side = 0 if path.endswith(KEYS) else 1 if path.endswith(VALUES) else None
            found = pairs.get((layer.in_features, side)) if side is not None else None
            if found is not None:
                layer.register_forward_pre_hook(in_front(found, name, last))
                used += 1
        if not used:
            raise Unknown("the base has no attention of its widths")

    return prepare


def in_front(layers: Layers, activation: str | None, last: bool) -> Any:
    """x + network(x) in the place of x."""
    matrices = [number for number, parts in layers.items() if len(parts["weight"].shape) == 2] if layers else []

    def before(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        import torch

        source = arguments[0]
        x = source
        for number in sorted(layers):
            weight = loaded(layers[number].get("weight"), source)
            bias = loaded(layers[number].get("bias"), source)
            if weight is None or weight.shape[-1] != x.shape[-1]:
                raise Unknown(f"its layer {number} does not fit the one before it")
            if number in matrices:
                x = torch.nn.functional.linear(x, weight, bias)
                if activation and (last or number != max(matrices)):
                    x = getattr(torch.nn.functional, activation)(x)
            else:
                x = torch.nn.functional.layer_norm(x, weight.shape, weight, bias)
        if x.shape != source.shape:
            raise Unknown("its output has another width than its input")
        return (source + x, *arguments[1:])

    return before


def loaded(tensor: Tensor | None, like: "torch.Tensor") -> "torch.Tensor | None":
    import torch

    return None if tensor is None else torch.from_numpy(values(tensor).astype("<f4")).to(like.device)
