"""Hashes of files are those that sites know them by, all from one reading."""

import hashlib
import json
import zlib
from pathlib import Path

import pytest
from blake3 import blake3

from ckptool.identify.hashes import CHUNK, hashes_of
from ckptool.source import File
from tests.convert.converting import ckptool
from tests.identify.fitting import stored


def expected(data: bytes, start: int | None) -> dict[str, str | None]:
    whole = hashlib.sha256(data).hexdigest()
    return {
        "sha256": whole,
        "autov1": hashlib.sha256(data[0x100000:0x110000]).hexdigest()[:8],
        "autov2": whole[:10],
        "autov3": hashlib.sha256(data[start:]).hexdigest()[:12] if start is not None else None,
        "blake3": blake3(data).hexdigest(),
        "crc32": f"{zlib.crc32(data):08x}",
    }


def safetensors(length: int) -> bytes:
    header = json.dumps({"x": {"dtype": "U8", "shape": [length], "data_offsets": [0, length]}}).encode()
    noise = hashlib.shake_256(b"x").digest(min(length, 1 << 16))
    return len(header).to_bytes(8, "little") + header + (noise * (length // len(noise) + 1) if noise else b"")[:length]


@pytest.mark.parametrize("length", [0, 100, 0x100000 + 5, 0x110000, CHUNK - 100, CHUNK, 3 * CHUNK + 12345])
def test_hashes_of_safetensors_files_are_right_whatever_their_size(tmp_path: Path, length: int) -> None:
    data = safetensors(length)
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    steps: list[int] = []
    with File.open(path) as file:
        assert hashes_of(file, steps.append) == expected(data, len(data) - length)
    assert sum(steps) == len(data)


def test_other_files_have_no_autov3(tmp_path: Path) -> None:
    from fixtures.models import textual_inversion
    from fixtures.torchfile import save_zip

    save_zip(textual_inversion(), tmp_path / "x.pt")
    ran = ckptool("inspect", tmp_path / "x.pt", "--json", "--hash")
    assert json.loads(ran.out)["hashes"] == expected((tmp_path / "x.pt").read_bytes(), None)


def test_hashes_are_computed_only_when_asked_for(tmp_path: Path) -> None:
    path = stored("vae", tmp_path / "vae.safetensors", 64)
    assert json.loads(ckptool("inspect", path, "--json").out)["hashes"] == {}
    assert json.loads(ckptool("inspect", path, "--json", "--hash").out)["hashes"]["sha256"] is not None
    assert hashlib.sha256(path.read_bytes()).hexdigest() in ckptool("inspect", path, "--hash").out
