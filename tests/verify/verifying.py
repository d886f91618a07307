"""What the tests of verify's first level share: real files, the command run in this process, and its report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from fixtures.models import lightning, state_dict
from fixtures.torchfile import save_zip
from tests.convert.converting import Ran, ckptool

Tensors = dict[str, torch.Tensor]
FACTOR = 64


def checkpoint(path: Path, architecture: str = "sd1", factor: int = FACTOR) -> Path:
    """A training checkpoint, as torch.save writes it."""
    save_zip(lightning(state_dict(architecture, factor)), path)
    return path


def plain(path: Path, architecture: str = "sd1", factor: int = FACTOR) -> Path:
    """The same tensors as safetensors."""
    source = checkpoint(path.with_suffix(".source.ckpt"), architecture, factor)
    ran = ckptool("convert", source, path, "-q")
    assert ran.code == 0, ran.err
    return path


def changed(source: Path, target: Path, change: Callable[[Tensors], None]) -> Path:
    """A copy of a safetensors file with something done to its tensors."""
    tensors = load_file(source)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target, metadata={"format": "pt"})
    return target


def verify(original: Path, candidate: Path, *args: object, both: bool = False) -> tuple[Ran, dict[str, Any]]:
    """The command's run and its report; the tensors alone unless `both`."""
    level = () if both else ("--tensors-only",)
    ran = ckptool("verify", original, candidate, "--json", *level, *args)
    report: dict[str, Any] = json.loads(ran.out) if ran.out else {}
    return ran, report


def parity(original: Path, candidate: Path, *args: object) -> dict[str, Any]:
    """The report's key `tensors`, of a candidate that is explained."""
    ran, report = verify(original, candidate, *args)
    assert ran.code == 0, ran.err
    assert report["parity"]
    tensors: dict[str, Any] = report["tensors"]
    assert not tensors["unexplained"]
    return tensors


def unexplained(original: Path, candidate: Path, *args: object) -> dict[str, dict[str, Any]]:
    """By name, what is not explained in a candidate that is no copy."""
    ran, report = verify(original, candidate, *args)
    assert ran.code == 4, (ran.code, ran.out[:500], ran.err)
    assert not report["parity"]
    return {item["name"]: item for item in report["tensors"]["unexplained"]}


def made(command: str, source: Path, target: Path, *args: object) -> tuple[Path, Path]:
    """The output of one of the commands that write, and its report."""
    report = target.with_suffix(".json")
    ran = ckptool(command, source, target, "-q", "--report", report, *args)
    assert ran.code == 0, ran.err
    return target, report
