"""What the tests of prune share: files of given tensors, the command, and what came out of it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from fixtures.models import StateDict, state_dict
from fixtures.torchfile import save_zip
from tests.convert.converting import Ran, Tensors, ckptool, contents

EMPTY = torch.empty(0)


@dataclass(frozen=True, slots=True)
class Pruned:
    """A file that was written, and its report."""

    tensors: Tensors
    report: dict[str, Any]
    words: str

    def bytes_of(self, name: str) -> bytes:
        return contents(self.tensors[name])


def prune(source: Path, *options: object) -> Pruned:
    """`ckptool prune` with a report, which must succeed."""
    target = source.with_name("out.safetensors")
    ran = ckptool("prune", source, target, "--force", "--json", *options)
    assert ran.code == 0, ran.err
    return Pruned(load_file(target), json.loads(ran.out), ran.err)


def refused(source: Path, *options: object, code: int = 3) -> Ran:
    """A run that must end with `code` and leave nothing."""
    target = source.with_name("refused.safetensors")
    ran = ckptool("prune", source, target, *options)
    assert ran.code == code, (ran.out, ran.err)
    assert not target.exists()
    return ran


def saved(tensors: Tensors, folder: Path, metadata: dict[str, str] | None = None) -> Path:
    path = folder / "m.safetensors"
    save_file(tensors, path, metadata)
    return path


def checkpoint(folder: Path, architecture: str = "sd1", factor: int = 64, **more: Any) -> tuple[Path, StateDict]:
    """A torch file of an architecture with more tensors beside, and what is in it."""
    tensors = state_dict(architecture, factor)
    tensors.update(more)
    path = folder / f"{architecture}.ckpt"
    save_zip(tensors, path)
    return path, tensors


def same_bytes(pruned: Pruned, tensors: StateDict, names: dict[str, str]) -> None:
    """`names`: of the output, each with the name that its bytes had in the source. There are no others."""
    assert pruned.tensors.keys() == names.keys()
    for name, source in names.items():
        assert pruned.bytes_of(name) == tensors[source].tobytes(), name
        assert tuple(pruned.tensors[name].shape) == tensors[source].shape, name


def same(names: Any) -> dict[str, str]:
    return {name: name for name in names}
