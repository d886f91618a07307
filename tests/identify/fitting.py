"""What the tests of compat and place share: real layouts as plans and as files, and small ones of every other kind."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from ckptool.tensor import Inline, Plan, Tensor
from fixtures import manifests
from fixtures.models import state_dict

Shape = tuple[int, ...]
DTYPES = {"F32": torch.float32, "F16": torch.float16, "I64": torch.int64, "I32": torch.int32}


def described(architecture: str, factor: int = 1) -> Plan:
    """A real layout as its header tells it; nobody asks for its values."""
    return plan_of({name: shape for name, (_, shape) in scaled(architecture, factor).items()})


def plan_of(shapes: Mapping[str, Shape]) -> Plan:
    return Plan("safetensors", tuple(Tensor(name, "F16", shape, Inline(b"")) for name, shape in shapes.items()))


def scaled(architecture: str, factor: int) -> manifests.Manifest:
    return manifests.scaled(manifests.load(architecture), factor)


def tensors(architecture: str, factor: int = 16) -> dict[str, torch.Tensor]:
    """A real layout with values."""
    shapes = scaled(architecture, factor)
    return {
        name: torch.frombuffer(bytearray(tensor.tobytes()), dtype=DTYPES[shapes[name][0]]).reshape(tensor.shape)
        for name, tensor in state_dict(architecture, factor).items()
    }


def stored(architecture: str, path: Path, factor: int = 16) -> Path:
    """A real layout as a safetensors file."""
    save_file(tensors(architecture, factor), path)
    return path


def zeros(shapes: Mapping[str, Shape], path: Path) -> Path:
    """A safetensors file of these names and shapes."""
    save_file({name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()}, path)
    return path


ESRGAN: dict[str, Shape] = {
    "conv_first.weight": (64, 3, 3, 3),
    "conv_first.bias": (64,),
    "RRDB_trunk.0.RDB1.conv1.weight": (32, 64, 3, 3),
    "conv_last.weight": (3, 64, 3, 3),
}
SWINIR: dict[str, Shape] = {
    "conv_first.weight": (60, 3, 3, 3),
    "layers.0.residual_group.blocks.0.norm1.weight": (60,),
    "layers.0.residual_group.blocks.0.attn.qkv.weight": (180, 60),
    "conv_last.weight": (3, 64, 3, 3),
}
CROSS_ATTENTIONS = [
    name for name in manifests.load("diffusers-unet-sd1") if name.endswith(".attn2.to_k.weight")
]  # fmt: skip


def ip_adapter(width: int = 768, factor: int = 1) -> dict[str, Shape]:
    """An IP-Adapter of SD1, or one that reads tokens of another width."""
    shapes = scaled("diffusers-unet-sd1", factor)
    rows = [shapes[name][1][0] for name in CROSS_ATTENTIONS]
    layers = {
        f"ip_adapter.{2 * n + 1}.to_{part}_ip.weight": (out, width) for n, out in enumerate(rows) for part in "kv"
    }
    return {"image_proj.proj.weight": (4 * width, 1024), "image_proj.norm.weight": (width,), **layers}


def t2i_adapter(inputs: int = 192, factor: int = 1) -> dict[str, Shape]:
    """A T2I-Adapter: 192 inputs for SD1, 768 for SDXL."""
    widths = [width // factor for width in (320, 320, 640, 640, 1280, 1280, 1280, 1280)]
    body = {
        f"body.{n}.{part}": shape
        for n, out in enumerate(widths)
        for part, shape in (("block1.weight", (out, out, 3, 3)), ("block2.weight", (out, out, 1, 1)))
    }
    return {"conv_in.weight": (widths[0], inputs, 3, 3), "conv_in.bias": (widths[0],), **body}
