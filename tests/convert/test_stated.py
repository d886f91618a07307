"""Hashes that a file states of itself are true of the file that is written, however kohya's scripts compute them."""

import hashlib
from io import BytesIO
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from tests.convert.converting import Tensors, ckptool, convert, header_of, random

SHORT = "0123abcd"
LONG = "ab" * 32


def adapter(rows: int = 3000) -> Tensors:
    return {"a.lora_down.weight": random(torch.float32, (rows, 200), 1), "a.alpha": torch.tensor(4.0)}


def kohya(tensors: Tensors, metadata: dict[str, str]) -> tuple[str, str]:
    """(sshs_model_hash, sshs_legacy_hash) as the training scripts define them."""
    data = save(tensors, {key: value for key, value in metadata.items() if key.startswith("ss_")})
    file = BytesIO(data)
    file.seek(0x100000)
    legacy = hashlib.sha256(file.read(0x10000)).hexdigest()[:8]
    return hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest(), legacy


@pytest.mark.parametrize("rows", [3, 1320, 3000])
def test_stated_hashes_are_made_true(rows: int, tmp_path: Path) -> None:
    given = {
        "ss_network_dim": "4",
        "modelspec.title": "x" * 999,
        "sshs_model_hash": LONG,
        "sshs_legacy_hash": SHORT,
        "modelspec.hash_sha256": "0x" + LONG,
    }
    save_file(adapter(rows), tmp_path / "m.bin", given)
    metadata = header_of(convert(tmp_path / "m.bin"))["__metadata__"]
    model, legacy = kohya(load_file(tmp_path / "m.safetensors"), given)
    assert metadata == given | {
        "format": "pt",
        "sshs_model_hash": model,
        "sshs_legacy_hash": legacy,
        "modelspec.hash_sha256": "0x" + model,
    }


def test_true_hashes_stay(tmp_path: Path) -> None:
    model, legacy = kohya(adapter(), {"ss_epoch": "1"})
    given = {"format": "pt", "ss_epoch": "1", "sshs_model_hash": model, "sshs_legacy_hash": legacy}
    save_file(adapter(), tmp_path / "m.bin", given)
    assert header_of(convert(tmp_path / "m.bin"))["__metadata__"] == given


def test_text_that_is_no_hash_stays(tmp_path: Path) -> None:
    given = {"sshs_model_hash": "unknown", "modelspec.hash_sha256": "", "format": "pt"}
    save_file(adapter(), tmp_path / "m.bin", given)
    assert header_of(convert(tmp_path / "m.bin"))["__metadata__"] == given


def test_the_report_states_what_the_file_does(tmp_path: Path) -> None:
    save_file(adapter(), tmp_path / "m.bin", {"sshs_model_hash": LONG})
    ran = ckptool("convert", tmp_path / "m.bin", "--json")
    model, _ = kohya(adapter(), {})
    assert f'"sshs_model_hash": "{model}"' in ran.out


def test_shards_state_no_hash_of_one_file(tmp_path: Path) -> None:
    save_file(adapter(), tmp_path / "m.bin", {"sshs_model_hash": LONG, "ss_epoch": "1"})
    assert ckptool("convert", tmp_path / "m.bin", "--max-shard-size", "1KB").code == 0
    for path in tmp_path.glob("m-*.safetensors"):
        assert header_of(path.read_bytes())["__metadata__"] == {"format": "pt", "ss_epoch": "1"}
