"""What the tests of the reference step share: scaled-down models as files, and two of them run."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors.torch import save_file

from ckptool.convert.read import read
from ckptool.verify.denoise import ComponentResult, Settings, denoise
from fixtures.models import state_dict

Tensors = dict[str, torch.Tensor]
DTYPES = {"F32": torch.float32, "F16": torch.float16, "I64": torch.int64, "I32": torch.int32}
FACTOR = 32
QUICK = Settings(steps=2, size=16)


def tensors(architecture: str, factor: int = FACTOR, only: str = "") -> Tensors:
    """The scaled-down state dict of an architecture, of it only what begins with `only`, as torch has it."""
    made = {}
    for name, tensor in state_dict(architecture, factor).items():
        if name.startswith(only):
            flat = torch.frombuffer(bytearray(tensor.tobytes() or b"\0"), dtype=torch.uint8)
            flat = flat[: len(tensor.tobytes())]
            made[name] = flat.view(DTYPES[tensor.storage.dtype]).reshape(tensor.shape)
    return made


def save(values: Tensors, path: Path, metadata: dict[str, str] | None = None) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in values.items()}, path, metadata)
    return path


def halved(values: Tensors) -> Tensors:
    return {name: t.half() if t.dtype is torch.float32 else t for name, t in values.items()}


def pair(folder: Path, original: Tensors, candidate: Tensors, settings: Settings = QUICK) -> dict[str, ComponentResult]:
    """Both as files, run. The second file's header is longer, so that its tensors lie elsewhere."""
    one = save(original, folder / "original.safetensors")
    two = save(candidate, folder / "candidate.safetensors", {"comment": "x" * 1001})
    return ran(one, two, settings)


def ran(original: Path, candidate: Path, settings: Settings = QUICK) -> dict[str, ComponentResult]:
    with ExitStack() as stack:
        return denoise(read(original, stack), read(candidate, stack), settings)


def changed(values: Tensors, name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Tensors:
    """A copy with one tensor changed."""
    return {**values, name: change(values[name].clone())}
