"""Where the output goes, and the names that it never takes: the source's, another file's, one without a folder."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.convert.converting import Ran, ckptool, conventional, state_dict


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.save(state_dict(), tmp_path / "m.ckpt")
    return tmp_path / "m.ckpt"


def refused_as_usage(ran: Ran, source: Path, files: set[str]) -> None:
    """Exit 2, two lines, the source as it was, and nothing new in the folder."""
    assert ran.code == 2, ran
    lines = ran.err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    assert set(os.listdir(source.parent)) == files
    assert source.stat().st_size > 0


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a.ckpt", "a.safetensors"),
        ("a.v1.5.pt", "a.v1.5.safetensors"),
        ("noending", "noending.safetensors"),
        (".hidden", ".hidden.safetensors"),
        ("a.safetensors", "a-converted.safetensors"),
        ("a.SAFETENSORS", "a.safetensors"),
        ("naïve 模型.ckpt", "naïve 模型.safetensors"),
        ("new\nline\x1b[31m.ckpt", "new\nline\x1b[31m.safetensors"),
        ("-f.ckpt", "-f.safetensors"),
    ],
)
def test_the_name_when_none_is_given(name: str, written: str, tmp_path: Path) -> None:
    torch.save(state_dict(), tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / name)
    ran = ckptool("convert", tmp_path / name)
    assert ran.code == 0, ran.err
    assert set(os.listdir(tmp_path)) == {name, written}
    assert (tmp_path / written).read_bytes() == conventional(state_dict())
    assert "\x1b" not in ran.out


def test_a_name_that_is_not_unicode(tmp_path: Path) -> None:
    name = os.fsdecode(b"m\xff.ckpt")
    torch.save(state_dict(), tmp_path / "x")
    (tmp_path / "x").rename(tmp_path / name)
    for ending in ("json", "sarif", "html", "md"):
        ran = ckptool("convert", tmp_path / name, "--json", "--force", "--report", tmp_path / f"r.{ending}")
        assert ran.code == 0, ran.err
    assert (tmp_path / os.fsdecode(b"m\xff.safetensors")).read_bytes() == conventional(state_dict())


def test_a_folder_as_destination(source: Path) -> None:
    (source.parent / "out").mkdir()
    assert ckptool("convert", source, source.parent / "out").code == 0
    assert os.listdir(source.parent / "out") == ["m.safetensors"]


def test_an_existing_file_is_kept_without_force(source: Path) -> None:
    (source.parent / "m.safetensors").write_text("mine")
    refused_as_usage(ckptool("convert", source), source, {"m.ckpt", "m.safetensors"})
    assert (source.parent / "m.safetensors").read_text() == "mine"
    assert ckptool("convert", source, "--force").code == 0
    assert (source.parent / "m.safetensors").read_bytes() == conventional(state_dict())
    assert set(os.listdir(source.parent)) == {"m.ckpt", "m.safetensors"}


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("link", ["same", "symlink", "hardlink", "relative", "through a folder"])
def test_the_source_is_never_the_destination(link: str, force: tuple[str], tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    source = tmp_path / "d" / "m.safetensors"
    save_file(state_dict(), source)
    before = source.read_bytes()
    target = tmp_path / "other.safetensors"
    match link:
        case "same":
            target = source
        case "symlink":
            target.symlink_to(source)
        case "hardlink":
            os.link(source, target)
        case "relative":
            target = tmp_path / "d" / ".." / "d" / "m.safetensors"
        case _:
            (tmp_path / "e").symlink_to(tmp_path / "d")
            target = tmp_path / "e" / "m.safetensors"
    files = set(os.listdir(tmp_path / "d"))
    ran = ckptool("convert", source, target, *force)
    refused_as_usage(ran, source, files)
    assert "is the source" in ran.err
    assert source.read_bytes() == target.read_bytes() == before


def test_force_replaces_a_link_and_not_what_it_points_to(source: Path) -> None:
    (source.parent / "other").write_text("mine")
    (source.parent / "m.safetensors").symlink_to(source.parent / "other")
    refused_as_usage(ckptool("convert", source), source, {"m.ckpt", "m.safetensors", "other"})
    assert ckptool("convert", source, "--force").code == 0
    assert (source.parent / "other").read_text() == "mine"
    assert not (source.parent / "m.safetensors").is_symlink()


def test_a_dangling_link_is_not_written_through(source: Path) -> None:
    (source.parent / "m.safetensors").symlink_to(source.parent / "nowhere.safetensors")
    refused_as_usage(ckptool("convert", source), source, {"m.ckpt", "m.safetensors"})


def test_a_missing_folder_is_not_made(source: Path) -> None:
    ran = ckptool("convert", source, source.parent / "nowhere" / "m.safetensors")
    refused_as_usage(ran, source, {"m.ckpt"})


@pytest.mark.parametrize("name", ["m.ckpt2", "m", "m.bin", "m.safetensors.tmp"])
def test_another_ending_is_refused(name: str, source: Path) -> None:
    refused_as_usage(ckptool("convert", source, source.parent / name), source, {"m.ckpt"})


def test_a_folder_of_that_name_is_not_replaced(source: Path) -> None:
    (source.parent / "m.safetensors").mkdir()
    for force in ((), ("--force",)):
        refused_as_usage(ckptool("convert", source, *force), source, {"m.ckpt", "m.safetensors"})


def test_a_source_that_does_not_exist(tmp_path: Path) -> None:
    ran = ckptool("convert", tmp_path / "nothing.ckpt")
    assert (ran.code, len(ran.err.splitlines())) == (2, 2)


@pytest.mark.parametrize("length", [300, 5000])
def test_names_that_are_too_long_for_the_system(length: int, source: Path) -> None:
    for args in ((source.parent / ("a" * length),), (source, source.parent / ("a" * length + ".safetensors"))):
        ran = ckptool("convert", *args)
        assert ran.code in (2, 3), ran.err
        assert len(ran.err.splitlines()) == 2


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_the_longest_names_that_the_system_allows(force: tuple[str], source: Path) -> None:
    for stem in ("a" * 243, "模" * 81):
        ran = ckptool("convert", source, source.parent / f"{stem}.safetensors", *force)
        assert ran.code == 0, ran.err


def test_a_destination_relative_to_the_working_folder(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source.parent)
    assert ckptool("convert", "m.ckpt", "out.safetensors").code == 0
    assert (source.parent / "out.safetensors").read_bytes() == conventional(state_dict())


def test_the_output_has_the_permissions_of_any_new_file(source: Path) -> None:
    old = os.umask(0o027)
    try:
        assert ckptool("convert", source).code == 0
        assert ckptool("convert", source, "--force").code == 0
    finally:
        os.umask(old)
    assert (source.parent / "m.safetensors").stat().st_mode & 0o777 == 0o640
