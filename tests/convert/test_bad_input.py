"""Bad input gets two lines on stderr and exit 3, the first says what it is, and nothing is left behind."""

import bz2
import gzip
import io
import lzma
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import pytest
import torch

from fixtures.assembler import Call, Code, Global, Persistent, assemble
from fixtures.tensors import noise
from fixtures.torchfile import save_zip
from tests.convert.converting import ckptool, random, state_dict
from tests.convert.test_archives import rezip, torch_zip


def refused(path: Path, *words: str, code: int = 3) -> None:
    """Two lines, the exit code, nothing new in the folder; every one of `words` is in the first line or the hint."""
    before = {p.name: p.read_bytes() for p in path.parent.iterdir() if p.is_file()}
    ran = ckptool("convert", path)
    assert ran.code == code, ran
    lines = ran.err.splitlines()
    assert len(lines) == 2, ran.err
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    assert path.name in lines[0]
    assert ran.out == ""
    for word in words:
        assert word in ran.err
    assert {p.name: p.read_bytes() for p in path.parent.iterdir() if p.is_file()} == before


def tar(mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        info = tarfile.TarInfo("model.ckpt")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"abc"))
    return file.getvalue()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.ones(2))
    return file.getvalue()


def npy() -> bytes:
    file = io.BytesIO()
    np.save(file, np.ones(2))
    return file.getvalue()


def plain_zip(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in (files or {"model.ckpt": torch_zip(state_dict())}).items():
            archive.writestr(name, data)
    return file.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4265380512\n"

OTHERS: dict[str, tuple[bytes, str]] = {
    "an empty file": (b"", "empty"),
    "a git-lfs pointer": (POINTER, "git lfs pull"),
    "a web page": (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "web page"),
    "a web page after a mark and space": (b"\xef\xbb\xbf\n  <html>", "web page"),
    "an error of an API": (b'{"error":"Repository not found"}', "m.ckpt"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(30), "7z"),
    "rar": (b"Rar!\x1a\x07\x01\x00" + bytes(30), "rar"),
    "tar": (tar("w"), "tar"),
    "tar.gz": (tar("w:gz"), "gzip"),
    "gz": (gzip.compress(b"abc"), "gzip"),
    "bz2": (bz2.compress(b"abc"), "bzip2"),
    "xz": (lzma.compress(b"abc"), "xz"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(20), "zstd"),
    "a GGUF file": (b"GGUF\x03\0\0\0" + bytes(20), "GGUF"),
    "a numpy array": (npy(), "npy"),
    "an archive of numpy arrays": (npz(), "npz"),
    "a zip around a checkpoint": (plain_zip(), "m.ckpt"),
    "an empty zip": (b"PK\x05\x06" + bytes(18), "zip"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(20), "PNG"),
    "a program": (b"\x7fELF" + bytes(20), "program"),
    "text": (b"Once upon a time there was no model at all.\n", "m.ckpt"),
    "zeros": (bytes(10_000), "m.ckpt"),
    "one byte": (b"\x80", "m.ckpt"),
    "noise": (bytes(random(torch.uint8, (5000,), 5).tolist()), "m.ckpt"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_no_checkpoint_is_named(what: str, tmp_path: Path) -> None:
    data, word = OTHERS[what]
    (tmp_path / "m.ckpt").write_bytes(data)
    refused(tmp_path / "m.ckpt", word)


@pytest.mark.parametrize("ending", [".ckpt", ".safetensors", ".json", ".bin", ""])
def test_the_ending_of_the_name_does_not_count(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"m{ending}").write_bytes(POINTER)
    refused(tmp_path / f"m{ending}", "git lfs pull")


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_what_is_no_file_is_not_opened_for_long(kind: str, tmp_path: Path) -> None:
    import socket

    path = tmp_path / "m.ckpt"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path)[-100:] if len(str(path)) < 100 else "m.ckpt")
        case _:
            path.symlink_to("/dev/zero")
    assert ckptool("convert", path).code in (2, 3)
    assert os.listdir(tmp_path) == ["m.ckpt"]


def encrypted(data: bytes) -> bytes:
    """The flag of encryption in every header."""
    changed = bytearray(data)
    for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = changed.find(magic)
        while start >= 0:
            changed[start + at] |= 1
            start = changed.find(magic, start + 4)
    return bytes(changed)


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "encrypted": (encrypted, "encrypted"),
    "bytes behind its end": (lambda data: data + b"\0" * 10, "end"),
    "bytes before its begin": (lambda data: b"PK\x03\x04" + data, "m.ckpt"),
    "a damaged directory": (lambda data: data.replace(b"PK\x01\x02", b"PK\x01\x03", 1), "m.ckpt"),
    "another name in a header": (lambda data: data.replace(b"archive/data/0", b"archive/data/9", 1), "data/0"),
    "no directory": (lambda data: data[: data.index(b"PK\x01\x02")], "m.ckpt"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_zip(what: str, tmp_path: Path) -> None:
    change, word = DAMAGE[what]
    (tmp_path / "m.ckpt").write_bytes(change(torch_zip(state_dict())))
    refused(tmp_path / "m.ckpt", word)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_is_packed_in_another_way(method: int, tmp_path: Path) -> None:
    rezip(torch_zip(state_dict()), tmp_path / "m.ckpt", compression=method)
    refused(tmp_path / "m.ckpt", "method")


def view(offset: Any, shape: Any, strides: Any, count: int = 6, key: str = "0") -> Call:
    pid = Persistent(("storage", Global("torch", "FloatStorage"), key, "cpu", count))
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), (pid, offset, shape, strides, False, {}))


VIEWS: dict[str, tuple[Call, str]] = {
    "one element too far": (view(1, (6,), (1,)), "reaches to element 6"),
    "a stride too far": (view(0, (2, 3), (4, 1)), "reaches"),
    "a huge stride": (view(0, (2,), (1 << 62,)), "reaches"),
    "a huge offset": (view(1 << 62, (1,), (1,)), "reaches"),
    "beyond 64 bits": (view(0, (2,), (1 << 64,)), "strides"),
    "a negative offset": (view(-1, (1,), (1,)), "offset"),
    "a negative stride": (view(5, (2,), (-1,)), "strides"),
    "a negative size": (view(0, (-1,), (1,)), "shape"),
    "more strides than dimensions": (view(0, (1,), (1, 1)), "strides"),
    "a size that is true": (view(0, (True,), (1,)), "shape"),
    "a size that is a float": (view(0, (1.0,), (1,)), "shape"),
    "a storage that is not there": (view(0, (1,), (1,), key="7"), "7"),
    "a storage of another length": (view(0, (1,), (1,), count=7), "data/0"),
    "terabytes out of a byte": (view(0, (1 << 20, 1 << 20), (0, 0)), "more than"),
}


@pytest.mark.parametrize("what", VIEWS)
def test_a_tensor_that_reaches_outside_its_storage(what: str, tmp_path: Path) -> None:
    made, word = VIEWS[what]
    with zipfile.ZipFile(tmp_path / "m.ckpt", "w") as archive:
        archive.writestr(
            "a/data.pkl",
            assemble(
                {"good": view(0, (6,), (1,), 7 if made is VIEWS["a storage of another length"][0] else 6), "bad": made}
            ),
        )
        archive.writestr("a/data/0", bytes(24))
    refused(tmp_path / "m.ckpt", word)


def test_a_tensor_that_depends_on_an_unknown_object(tmp_path: Path) -> None:
    tensor = noise("F32", (3,), "x")
    made = Call(Global("company.tensors", "unscramble"), (tensor, 3))
    for value in ({"w": made}, {"state_dict": Call(Global("company", "decrypt"), ({"w": tensor},))}):
        save_zip(value, tmp_path / "m.ckpt")
        refused(tmp_path / "m.ckpt", "company")


def test_a_state_dict_that_a_call_could_change(tmp_path: Path) -> None:
    inner = {"w": noise("F32", (3,), "x")}
    save_zip({"state_dict": inner, "hook": Call(Global("company", "patch"), (inner,))}, tmp_path / "m.ckpt")
    refused(tmp_path / "m.ckpt", "company.patch")


BOMBS: dict[str, bytes] = {
    "nested tuples": b"\x80\x02" + b")" + b"\x85" * 100_000 + b".",
    "a long string that is not there": b"\x80\x02X" + pack("<I", 2**32 - 1) + b".",
    "an endless integer": b"\x80\x02\x8b" + pack("<I", 2**31 - 1) + b".",
    "bytes of exabytes": b"\x80\x04\x8e" + pack("<Q", 2**62) + b".",
    "a stack without end": b"\x80\x02" + b"(" * 300_000,
    "lists that double": b"\x80\x02]q\0"
    + b"(h\0h\0e" * 5
    + b"".join(b"]r%b(j%bj%be" % (pack("<I", i + 1), pack("<I", i), pack("<I", i)) for i in range(300))
    + b".",
    "a memo index of four billion": b"\x80\x02Nr" + pack("<I", 2**32 - 1) + b".",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent id in text": b"\x80\x02Pstorage\n.",
    "no stop": b"\x80\x02}",
    "a stop with nothing": b"\x80\x02.",
    "protocol 6": b"\x80\x06}.",
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_pickle_bomb(what: str, tmp_path: Path) -> None:
    (tmp_path / "m.pkl").write_bytes(BOMBS[what])
    refused(tmp_path / "m.pkl")
    with zipfile.ZipFile(tmp_path / "z.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", BOMBS[what])
    refused(tmp_path / "z.ckpt")


def test_a_code_that_makes_the_state_dict_is_shown(tmp_path: Path) -> None:
    code = Code(b"cbuiltins\nexec\n(", "import os", b"tR")
    save_zip({"state_dict": code}, tmp_path / "m.ckpt")
    refused(tmp_path / "m.ckpt", "no tensors")
