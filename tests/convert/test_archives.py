"""Every form in which a torch archive is found: by root, compression, checksums, byte order and writer."""

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch.serialization import LoadEndianness, set_default_load_endianness

from fixtures.assembler import Call, Global, Persistent, assemble
from fixtures.models import state_dict as architecture
from fixtures.torchfile import save_legacy, save_zip
from tests.convert.converting import DTYPES, Tensors, contents, conventional, convert, equal, random, state_dict


def torch_zip(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def rezip(data: bytes, path: Path, replaced: dict[str, bytes] | None = None, root: str = "", **options: Any) -> None:
    """The same records as Python's zipfile writes them."""
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(path, "w", **options) as new:
        for name in old.namelist():
            first, _, rest = name.partition("/")
            new.writestr(f"{root or first}/{rest}", (replaced or {}).get(rest, old.read(name)))


def tensors() -> Tensors:
    """Small and large records, and one that deflate makes smaller."""
    return state_dict() | {
        "large": random(torch.uint8, (3 << 20,)),
        "zeros": torch.zeros(1 << 20),
        "t": random(torch.float32, (300, 200)).t(),
    }


@pytest.mark.parametrize("root", ["archive", "model", "Модель", "模型", "a b", "x.y", "é" * 60])
@pytest.mark.parametrize("save", [torch_zip, None])
def test_any_root(root: str, save: Any, tmp_path: Path) -> None:
    path = tmp_path / f"{root}.ckpt"
    if save:
        rezip(torch_zip(state_dict()), path, root=root)
    else:
        torch.save(state_dict(), path)  # torch takes the root from the name, less what is not ASCII
    assert convert(path) == conventional(state_dict())


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_that_were_zipped_again(method: int, tmp_path: Path) -> None:
    rezip(torch_zip(tensors()), tmp_path / "m.ckpt", compression=method)
    assert convert(tmp_path / "m.ckpt") == conventional(tensors())


@pytest.mark.parametrize("level", [1, 9])
def test_every_level_of_deflate(level: int, tmp_path: Path) -> None:
    rezip(torch_zip(tensors()), tmp_path / "m.ckpt", compression=zipfile.ZIP_DEFLATED, compresslevel=level)
    assert convert(tmp_path / "m.ckpt") == conventional(tensors())


def test_a_zip_with_entries_for_its_folders(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(torch_zip(state_dict()))) as old, zipfile.ZipFile(tmp_path / "m.ckpt", "w") as new:
        new.mkdir("archive")
        new.mkdir("archive/data")
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert convert(tmp_path / "m.ckpt") == conventional(state_dict())


def test_a_zip_that_was_written_to_a_pipe(tmp_path: Path) -> None:
    """Sizes then stand in a descriptor behind each record."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += data
            return len(data)

    pipe = Pipe()
    with (
        zipfile.ZipFile(io.BytesIO(torch_zip(tensors()))) as old,
        zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    (tmp_path / "m.ckpt").write_bytes(pipe.data)
    assert convert(tmp_path / "m.ckpt") == conventional(tensors())


def test_a_zip_whose_headers_are_all_wide(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(torch_zip(state_dict()))) as old, zipfile.ZipFile(tmp_path / "m.ckpt", "w") as new:
        for name in old.namelist():
            with new.open(name, "w", force_zip64=True) as record:
                record.write(old.read(name))
    assert convert(tmp_path / "m.ckpt") == conventional(state_dict())


def test_an_archive_without_checksums(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(tensors(), tmp_path / "m.ckpt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert convert(tmp_path / "m.ckpt") == conventional(tensors())


def every_dtype() -> Tensors:
    values = {str(dtype): random(dtype, (5, 3), 1) for dtype in DTYPES}
    turned, conjugate = random(torch.float64, (4, 3), 2).t(), random(torch.complex64, (3,), 3).conj()
    return values | {"turned": turned, "conjugate": conjugate}


def big_endian(path: Path, values: Tensors) -> Tensors:
    """An archive as a big-endian machine writes it: each storage's elements swapped."""
    records = {"byteorder": b"big"}
    storages = {value.untyped_storage().data_ptr(): value for value in values.values()}
    for key, value in enumerate(storages.values()):
        width = 4 if value.is_complex() else value.element_size()
        stored = value.untyped_storage()
        data = bytes(stored.tolist())
        records[f"data/{key}"] = b"".join(data[i : i + width][::-1] for i in range(0, len(data), width))
    rezip(torch_zip(values), path, records)
    return values


@pytest.mark.filterwarnings("ignore")
def test_big_endian_archives(tmp_path: Path) -> None:
    values = big_endian(tmp_path / "m.ckpt", every_dtype())
    assert convert(tmp_path / "m.ckpt") == conventional(values)
    # What torch itself makes of the file, where it can: it swaps by the storage's dtype, which young dtypes lack.
    set_default_load_endianness(LoadEndianness.BIG)
    try:
        theirs = torch.load(tmp_path / "m.ckpt", weights_only=True)
    finally:
        set_default_load_endianness(None)
    for name in ("torch.float32", "torch.int64", "torch.float16", "turned"):
        assert equal(theirs[name], values[name]), name


def test_a_record_of_byte_order_that_is_neither_is_refused(tmp_path: Path) -> None:
    from tests.convert.converting import ckptool

    rezip(torch_zip(state_dict()), tmp_path / "m.ckpt", {"byteorder": b"middle"})
    assert ckptool("convert", tmp_path / "m.ckpt").code == 3


@pytest.mark.parametrize("modern", [True, False])
def test_archives_by_old_and_new_torch(modern: bool, tmp_path: Path) -> None:
    """Torch 1.6 wrote no byte order, no alignment and no identity."""
    values = architecture("textual-inversion-a1111")
    save_zip(values, tmp_path / "m.pt", modern=modern)
    loaded = load(convert(tmp_path / "m.pt"))
    assert {name: contents(tensor) for name, tensor in loaded.items()} == {n: t.tobytes() for n, t in values.items()}


@pytest.mark.parametrize("module", ["torch", "torch.cuda"])
def test_tensors_that_were_saved_from_a_gpu(module: str, tmp_path: Path) -> None:
    pid = Persistent(("storage", Global(module, "HalfStorage"), "0", "cuda:0", 3))
    call = Call(Global("torch._utils", "_rebuild_tensor_v2"), (pid, 0, (3,), (1,), False, {}))
    with zipfile.ZipFile(tmp_path / "m.ckpt", "w") as archive:
        archive.writestr("a/data.pkl", assemble({"w": call}))
        archive.writestr("a/data/0", b"\x00\x3c\x00\x40\x00\x42")
    assert convert(tmp_path / "m.ckpt") == conventional({"w": torch.tensor([1.0, 2.0, 3.0], dtype=torch.float16)})


def test_legacy_storages_follow_in_another_order_than_they_are_named_in(tmp_path: Path) -> None:
    values = architecture("sd1", factor=64)
    save_legacy(values, tmp_path / "m.ckpt")
    loaded = load(convert(tmp_path / "m.ckpt"))
    assert all(contents(loaded[name]) == tensor.tobytes() for name, tensor in values.items())
