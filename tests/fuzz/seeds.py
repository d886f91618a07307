"""Files that an attack starts from: small ones of every kind that the targets read."""

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch

from fixtures.tensors import of
from fixtures.torchfile import save_legacy, save_zip
from tests.fuzz.archives import file_of
from tests.fuzz.mutations import NAMES
from tests.fuzz.programs import ATOMS, MADE

PLAIN = {"a": [1, 2.5, None, True, b"x" * 9, "text", (1, 2), {3}, frozenset([4])], 7: {"b": 2**70, "c": "é"}}


def tree() -> dict[str, object]:
    """Tensors, tied and plain, as fixtures write them."""
    tensor = of("F32", (2, 3), bytes(range(24)))
    return {"state_dict": OrderedDict(a=tensor, b=tensor, c=of("BF16", (0,), b"")), "epoch": 3}


def zips() -> list[bytes]:
    """Archives of ours, of torch and of zipfile."""
    made = io.BytesIO()
    save_zip(tree(), made)
    saved = io.BytesIO()
    torch.save({"a": torch.arange(4), "h": torch.ones(2, dtype=torch.float16)}, saved)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(PLAIN))
        archive.writestr("archive/data/0", bytes(99))
    return [made.getvalue(), saved.getvalue(), packed.getvalue()]


def pickles() -> list[bytes]:
    """Plain values in every protocol, the pickles of torch's formats, and each opcode and name alone."""
    legacy = io.BytesIO()
    save_legacy(tree(), legacy)
    found = [pickle.dumps(PLAIN, protocol) for protocol in range(6)] + [legacy.getvalue()]
    for data in zips():
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found += [archive.read(name) for name in archive.namelist() if name.endswith("data.pkl")]
    pieces = [*ATOMS, *MADE, *NAMES]
    return found + [b"\x80\x02" + piece + b"." for piece in pieces] + [name + b"(NNtR." for name in NAMES]


def headers() -> list[bytes]:
    """Safetensors files with and without tensors and metadata."""
    from ckptool.tensor import Inline, Tensor

    parts = (Tensor("a", "F32", (2,), Inline(b"12345678")), Tensor("b", "BOOL", (), Inline(b"\1")))
    return [file_of((), {}), file_of(parts, {"format": "pt"}), file_of(parts[:1], {})]


def write_seeds(name: str, folder: Path) -> None:
    """The corpus of a target."""
    folder.mkdir(parents=True)
    made = {"machine": pickles, "archive": zips, "header": headers}[name]()
    for number, data in enumerate(made):
        (folder / f"seed{number}").write_bytes(data)
