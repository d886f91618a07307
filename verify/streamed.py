"""Gives a network its weights layer by layer: what is not F32 in the file is F32 only while its layer runs."""

from typing import TYPE_CHECKING, Any

from ckptool.verify.ldm_extra import Weight
from ckptool.verify.mapped import ALIGNED, Maps, fill, resident

if TYPE_CHECKING:
    import torch

LOOKED_UP = ("F32", "F16", "BF16")
"""Dtypes that rows can be looked up in."""


class Scratch:
    """One buffer that every layer in turn finds its weights in, since they run one after the other."""

    def __init__(self) -> None:
        self.size = 0
        self._buffer: torch.Tensor | None = None

    def views(self, shapes: list[tuple[int, ...]]) -> "list[torch.Tensor]":
        import torch

        if self._buffer is None:
            self._buffer = torch.empty(self.size, dtype=torch.float32)
        result, start = [], 0
        for shape in shapes:
            count = torch.Size(shape).numel()
            result.append(self._buffer[start : start + count].view(shape))
            start += room(count)
        return result


def room(count: int) -> int:
    """Numbers of F32 that leave the next tensor where all are: on a multiple of ALIGNED bytes."""
    numbers = ALIGNED // 4
    return -(-count // numbers) * numbers


class Layer:
    """The parameters of one layer that are made each time it runs."""

    def __init__(self, module: Any, sources: dict[str, Weight], maps: Maps, scratch: Scratch) -> None:
        self.sources = sources
        self.maps = maps
        self.scratch = scratch
        self.empty = {name: module._parameters[name] for name in sources}
        scratch.size = max(scratch.size, sum(room(p.numel()) for p in self.empty.values()))

    def before(self, module: Any, *_: Any) -> None:
        import torch

        views = self.scratch.views([tuple(p.shape) for p in self.empty.values()])
        for (name, weight), view in zip(self.sources.items(), views, strict=True):
            fill(weight, self.maps, view)
            module._parameters[name] = torch.nn.Parameter(view, requires_grad=False)

    def after(self, module: Any, *_: Any) -> None:
        module._parameters.update(self.empty)


class Lookup:
    """An embedding that is looked up in the file's own dtype: only the rows that are asked for become F32."""

    def __init__(self, module: Any, weight: Weight, maps: Maps) -> None:
        self.weight = weight
        self.maps = maps
        self.empty = module._parameters["weight"]

    def before(self, module: Any, *_: Any) -> None:
        import torch

        flat = self.maps.values(self.weight.tensor).view(self.empty.shape)
        module._parameters["weight"] = torch.nn.Parameter(flat, requires_grad=False)

    def after(self, module: Any, _: Any, output: "torch.Tensor") -> "torch.Tensor":
        module._parameters["weight"] = self.empty
        return output.float()


def attach(network: Any, weights: dict[str, Weight], maps: Maps, device: str) -> None:
    """Every parameter of `network`, which is on the meta device, gets its weight: at once, or as its layer runs.

    `weights` has exactly the network's own names and shapes. On another device than the CPU all of it is copied.
    """
    import torch

    scratch = Scratch()
    for prefix, module in network.named_modules():
        later: dict[str, Weight] = {}
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            weight = weights[f"{prefix}.{name}" if prefix else name]
            shape = tuple(parameter.shape)
            if device != "cpu":
                whole = torch.empty(shape, dtype=torch.float32)
                fill(weight, maps, whole)
                module._parameters[name] = torch.nn.Parameter(whole.to(device), requires_grad=False)
            elif (view := resident(weight, maps, shape)) is not None:
                module._parameters[name] = torch.nn.Parameter(view, requires_grad=False)
            else:
                later[name] = weight
        if later:
            hook(module, later, maps, scratch)


def hook(module: Any, later: dict[str, Weight], maps: Maps, scratch: Scratch) -> None:
    import torch

    layer: Layer | Lookup = Layer(module, later, maps, scratch)
    weight = later.get("weight")
    plain = weight is not None and weight.change is None and weight.scale is None
    if isinstance(module, torch.nn.Embedding) and plain and weight is not None and weight.tensor.dtype in LOOKED_UP:
        layer = Lookup(module, weight, maps)
    module.register_forward_pre_hook(layer.before)
    module.register_forward_hook(layer.after)
