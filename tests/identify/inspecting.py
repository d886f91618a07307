"""What the tests of inspect share: the command's report, and small files."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.convert.converting import ckptool


def inspected(path: Path, *args: object) -> dict[str, Any]:
    ran = ckptool("inspect", path, "--json", *args)
    assert ran.code == 0, ran.err
    report: dict[str, Any] = json.loads(ran.out)
    return report


def written(tmp_path: Path, made: dict[str, torch.Tensor], name: str = "model.safetensors", **meta: str) -> Path:
    save_file(made, tmp_path / name, metadata=meta or None)
    return tmp_path / name
