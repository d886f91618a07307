"""What the tests of convert share: the command run in this process, and the bytes that a conventional writer makes."""

import gc
import json
import signal
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from click.testing import CliRunner
from safetensors.torch import save

from ckptool.cli import main
from ckptool.convert.read import read
from ckptool.convert.writer import write

Tensors = dict[str, torch.Tensor]

DTYPES: tuple[torch.dtype, ...] = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.bool,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run of the command left: its exit code and what it printed."""

    code: int
    out: str
    err: str


def ckptool(*args: object) -> Ran:
    """`ckptool` as it is called by its entry point, but in this process."""
    handler, thresholds = signal.getsignal(signal.SIGTERM), gc.get_threshold()
    argv = ["ckptool", *map(str, args)]
    with CliRunner().isolation() as (out, err, _), patch.object(sys, "argv", argv):
        code: Any = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        finally:
            signal.signal(signal.SIGTERM, handler)
            gc.set_threshold(*thresholds)
        return Ran(code or 0, out.getvalue().decode(), err.getvalue().decode())


def convert(source: Path, *args: object) -> bytes:
    """The bytes of the safetensors file that `ckptool convert` writes beside `source`."""
    ran = ckptool("convert", source, *args)
    assert ran.code == 0, ran.err
    return source.with_suffix(".safetensors").read_bytes()


def convert_by_library(source: Path, target: Path) -> bytes:
    """The same by the functions behind the command."""
    with ExitStack() as stack:
        plan = read(source, stack)
        write(replace(plan, metadata={"format": "pt", **plan.metadata}), target)
    return target.read_bytes()


def conventional(tensors: Tensors, metadata: dict[str, str] | None = None) -> bytes:
    """What `safetensors.torch.save_file` writes for the same tensors.

    Its own order of several metadata keys is left to chance, so the header is written with them sorted.
    """
    data = save({name: plain(t) for name, t in tensors.items()}, metadata={"format": "pt"})
    return with_metadata(data, {"format": "pt", **metadata}) if metadata else data


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as safetensors takes it: contiguous, on its own storage, without lazy bits."""
    return tensor.detach().resolve_conj().resolve_neg().contiguous().clone()


def header_of(data: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return header


def with_metadata(data: bytes, metadata: dict[str, str]) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = {"__metadata__": dict(sorted(metadata.items()))}
    header |= {key: value for key, value in header_of(data).items() if key != "__metadata__"}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def contents(tensor: torch.Tensor) -> bytes:
    """The elements of a tensor in row-major order."""
    tensor = plain(tensor)
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def equal(some: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal in dtype, shape and every bit, NaN included."""
    return (some.dtype, some.shape) == (other.dtype, other.shape) and contents(some) == contents(other)


def random(dtype: torch.dtype, shape: tuple[int, ...] = (3, 4), seed: int = 0) -> torch.Tensor:
    """Any bits of a dtype, NaN and infinity among them; a bool is 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    width = torch.empty(0, dtype=dtype).element_size()
    count = torch.Size(shape).numel() * width
    data = torch.randint(0, 2 if dtype is torch.bool else 256, (count,), dtype=torch.uint8, generator=generator)
    return data.view(dtype).reshape(shape) if count else torch.empty(shape, dtype=dtype)


def state_dict() -> Tensors:
    """A small state dict, one entry of it empty, since an empty tensor's presence can be the information."""
    return {
        "layer.weight": random(torch.float32, (3, 4), 1),
        "layer.bias": random(torch.float16, (3,), 2),
        "v_pred": torch.empty(0),
    }
