"""What the tests of quantize share: a cast run as a command, and what torch makes of the same values."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from ckptool.quantize.formats import FORMATS
from ckptool.quantize.kernels import Kernel
from ckptool.quantize.tally import Tally
from tests.convert.converting import Ran, Tensors, ckptool

TORCH: dict[str, torch.dtype] = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
Bits = npt.NDArray[Any]


def save(tensors: Tensors, path: Path, **metadata: str) -> Path:
    save_file(tensors, path, metadata={"format": "pt", **metadata})
    return path


def run(command: str, source: Path, *args: object) -> tuple[Tensors, dict[str, Any]]:
    """The tensors that the command writes, and its report."""
    target = source.with_name(f"{source.stem}-out.safetensors")
    ran = ckptool(command, source, target, "--force", "--json", *args)
    assert ran.code == 0, ran.err
    report: dict[str, Any] = json.loads(ran.out)
    return load_file(target), report


def refused(command: str, source: Path, *args: object) -> Ran:
    """A run that leaves nothing behind but what was there."""
    before = sorted(source.parent.iterdir())
    ran = ckptool(command, source, *args)
    assert ran.code != 0
    assert sorted(source.parent.iterdir()) == before
    return ran


def figures(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in report["cast"]}


def reasons(report: dict[str, Any]) -> dict[str, str]:
    return {item["name"]: item["reason"] for item in report["kept_wide"]}


def cast(values: Bits, source: str, target: str, clamp: bool = True, scale: float = 1.0) -> tuple[Bits, Tally]:
    """The codes that the kernel makes of the bits of `values`, and what it counted."""
    tally = Tally(len(values))
    codes = np.zeros(len(values), FORMATS[target].codes)
    Kernel(source, target, tally, clamp, scale)(memoryview(values.tobytes()), memoryview(codes).cast("B"))
    return codes, tally


def by_torch(values: Bits, source: str, target: str) -> Bits:
    """What torch makes of the same bits; beyond the range, the largest value that is finite."""
    into = FORMATS[target]
    tensor = torch.from_numpy(values.copy()).view(TORCH[source])
    codes = tensor.to(TORCH[target]).view(torch.int16 if into.codes == "<u2" else torch.uint8).numpy().view(into.codes)
    numbers = (tensor if tensor.dtype.itemsize > 2 else tensor.float()).numpy()
    if (abs(numbers) < np.float32(into.limit)).all():
        return codes
    # Infinities stay, where there are any.
    clamped = np.isfinite(numbers) if into.infinity is not None else ~np.isnan(numbers)
    beyond = clamped & ~np.isfinite(tensor.to(torch.float32).to(TORCH[target]).to(torch.float32).numpy())
    signs = np.where(np.signbit(numbers), into.sign, 0).astype(into.codes)
    return np.where(beyond, signs | codes.dtype.type(into.largest), codes)
