"""A disk that is full, or becomes so half way, gives two lines and exit 3, and leaves nothing."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from ckptool.errors import Unwritable
from ckptool.output import check_space
from tests.convert.converting import ckptool, random
from tests.convert.test_archives import rezip, torch_zip
from tests.convert.test_hypernetwork import pair

CKPTOOL = str(Path(sysconfig.get_path("scripts")) / "ckptool")
LIMIT = 1_500_000
"""Bytes that a child may write to one file: the system then fails a write as on a full disk."""
LIMITED = """import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
os.execv(sys.argv[2], sys.argv[2:])"""


def with_little_room(*args: object, limit: int = LIMIT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LIMITED, str(limit), CKPTOOL, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


LARGE = {"large": random(torch.uint8, (4 << 20,), 1), "small": torch.ones(5)}
SMALL = {f"t{i}": random(torch.uint8, (60_000,), i) for i in range(50)}


def zipped(tensors: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(tensors, path)


def deflated(tensors: dict[str, torch.Tensor], path: Path) -> None:
    rezip(torch_zip(tensors), path, compression=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(path.with_suffix(".tmp"), "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if not name.endswith("byteorder"):
                new.writestr(name, old.read(name))
    path.with_suffix(".tmp").replace(path)


def turned(tensors: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(
        {name: t.view(-1, 5).t() if t.numel() % 5 == 0 else t.view(-1, 2).t() for name, t in tensors.items()}, path
    )


def safetensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    path.write_bytes(save(tensors))


@pytest.mark.parametrize("tensors", [LARGE, SMALL], ids=["large", "small"])
@pytest.mark.parametrize("form", [zipped, deflated, turned, safetensors])
def test_a_disk_that_becomes_full(form: Callable[..., None], tensors: dict[str, torch.Tensor], tmp_path: Path) -> None:
    form(tensors, tmp_path / "m.ckpt")
    before = (tmp_path / "m.ckpt").read_bytes()
    ran = with_little_room("convert", tmp_path / "m.ckpt", tmp_path / "out.safetensors")
    assert ran.returncode == 3, ran
    lines = ran.stderr.splitlines()
    assert len(lines) == 2
    assert "cannot be written" in lines[0]
    assert "make room" in lines[1]
    assert os.listdir(tmp_path) == ["m.ckpt"]
    assert (tmp_path / "m.ckpt").read_bytes() == before


def test_an_older_output_survives_it(tmp_path: Path) -> None:
    zipped(LARGE, tmp_path / "m.ckpt")
    (tmp_path / "m.safetensors").write_text("older")
    assert with_little_room("convert", tmp_path / "m.ckpt", "--force").returncode == 3
    assert (tmp_path / "m.safetensors").read_text() == "older"
    assert set(os.listdir(tmp_path)) == {"m.ckpt", "m.safetensors"}


def test_none_of_the_shards_is_left(tmp_path: Path) -> None:
    zipped({"a": random(torch.uint8, (1 << 20,)), **LARGE}, tmp_path / "m.ckpt")
    ran = with_little_room("convert", tmp_path / "m.ckpt", "--max-shard-size", "1MiB")
    assert ran.returncode == 3, ran
    assert os.listdir(tmp_path) == ["m.ckpt"]


def test_a_hypernetwork(tmp_path: Path) -> None:
    torch.save({1: pair(), 2: ({"w": LARGE["large"]}, {"v": torch.ones(1)})}, tmp_path / "h.pt")
    ran = with_little_room("convert", tmp_path / "h.pt", tmp_path / "clean.pt")
    assert ran.returncode == 3, ran
    assert len(ran.stderr.splitlines()) == 2
    assert os.listdir(tmp_path) == ["h.pt"]


@pytest.mark.parametrize(("ending", "limit"), [("json", 500_000), ("html", 1_000), ("md", 200)])
def test_a_report_is_whole_or_not_there(ending: str, limit: int, tmp_path: Path) -> None:
    """A write that stops short is no error to the system. People's reports are short, and the output is shorter."""
    torch.save(
        {"state_dict": {"w": torch.ones(1)}, **{f"n{i:05} {'x' * 60}": {"a": i} for i in range(9_000)}},
        tmp_path / "m.pt",
    )
    ran = with_little_room("convert", tmp_path / "m.pt", "-q", "--report", tmp_path / f"r.{ending}", limit=limit)
    assert ran.returncode == 3, ran
    assert not (tmp_path / f"r.{ending}").exists()


def test_a_sidecar_is_whole_or_not_there(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "m.ckpt")
    (tmp_path / "m.yaml").write_text("#" * 900_000)
    ran = with_little_room("convert", tmp_path / "m.ckpt", tmp_path / "out.safetensors", limit=500_000)
    assert ran.returncode == 3, ran
    assert not (tmp_path / "out.yaml").exists()


def test_with_room_enough_the_same_limit_is_no_obstacle(tmp_path: Path) -> None:
    zipped({"w": torch.ones(1000)}, tmp_path / "m.ckpt")
    assert with_little_room("convert", tmp_path / "m.ckpt").returncode == 0


def test_a_file_that_cannot_fit_is_refused_before_the_first_byte(tmp_path: Path) -> None:
    """What the file system says is asked first; no disk has an exabyte."""
    check_space(tmp_path / "m.safetensors", 1)
    with pytest.raises(Unwritable, match="needs 1e\\+06 TB"):
        check_space(tmp_path / "m.safetensors", 10**18)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    """/proc takes no new files, from root either."""
    torch.save({"w": torch.ones(1)}, tmp_path / "m.ckpt")
    ran = ckptool("convert", tmp_path / "m.ckpt", "/proc/m.safetensors")
    assert ran.code == 3, ran
    assert len(ran.err.splitlines()) == 2
    assert "cannot be written" in ran.err
