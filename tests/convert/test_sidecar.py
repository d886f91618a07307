"""The `<stem>.yaml` beside a checkpoint is carried along, never over another one, and never with code in it."""

import os
from pathlib import Path

import pytest
import torch

from tests.convert.converting import ckptool

TEXT = 'model:\n  params:\n    parameterization: "v"  # ключ\n'


@pytest.fixture
def source(tmp_path: Path) -> Path:
    torch.save({"w": torch.ones(1)}, tmp_path / "v2.1.ckpt")
    (tmp_path / "v2.1.yaml").write_text(TEXT)
    (tmp_path / "out").mkdir()
    return tmp_path / "v2.1.ckpt"


def test_it_takes_the_name_of_the_output(source: Path) -> None:
    ran = ckptool("convert", source, source.parent / "out" / "clean.safetensors")
    assert ran.code == 0
    assert (source.parent / "out" / "clean.yaml").read_text() == TEXT
    assert "clean.yaml" in ran.out


def test_it_stays_where_it_is_when_the_output_has_its_stem(source: Path) -> None:
    assert ckptool("convert", source).code == 0
    assert set(os.listdir(source.parent)) == {"v2.1.ckpt", "v2.1.yaml", "v2.1.safetensors", "out"}
    assert (source.parent / "v2.1.yaml").read_text() == TEXT


def test_another_one_is_not_overwritten(source: Path) -> None:
    goal = source.parent / "out" / "v2.1.yaml"
    goal.write_text("mine")
    ran = ckptool("convert", source, source.parent / "out")
    assert (ran.code, len(ran.err.splitlines())) == (2, 2)
    assert goal.read_text() == "mine"
    assert os.listdir(goal.parent) == ["v2.1.yaml"]
    assert ckptool("convert", source, source.parent / "out", "--force").code == 0
    assert goal.read_text() == TEXT


def test_an_equal_one_is_no_obstacle(source: Path) -> None:
    (source.parent / "out" / "v2.1.yaml").write_text(TEXT)
    assert ckptool("convert", source, source.parent / "out").code == 0


# What PyYAML's unsafe loaders make objects of, in the spellings that YAML allows for one tag.
CODE = {
    "short": b'a: !!python/object/apply:os.system ["id"]\n',
    "escaped": b'a: !!%70ython/object/apply:os.system ["id"]\n',
    "escaped later": b'a: !!pytho%6e/object/apply:os.system ["id"]\n',
    "verbatim": b'a: !<tag:yaml.org,2002:python/object/apply:os.system> ["id"]\n',
    "own handle": b'%TAG !p! tag:yaml.org,2002:python/\n---\na: !p!object/apply:os.system ["id"]\n',
    "own primary handle": b'%TAG ! tag:yaml.org,2002:py\n---\na: !thon/object/apply:os.system ["id"]\n',
    "utf-16": 'a: !!python/object/apply:os.system ["id"]\n'.encode("utf-16"),
}


@pytest.mark.parametrize("spelling", CODE)
def test_one_that_would_run_code_in_a_careless_loader_is_left_out(spelling: str, source: Path) -> None:
    source.with_suffix(".yaml").write_bytes(CODE[spelling])
    ran = ckptool("convert", source, source.parent / "out" / "clean.safetensors")
    assert ran.code == 0, ran.err
    assert os.listdir(source.parent / "out") == ["clean.safetensors"]
    assert "v2.1.yaml" in ran.out


def test_one_that_is_no_small_text_is_left_out(source: Path) -> None:
    source.with_suffix(".yaml").write_bytes(b"#" * (2 << 20))
    ran = ckptool("convert", source, source.parent / "out" / "clean.safetensors")
    assert ran.code == 0
    assert os.listdir(source.parent / "out") == ["clean.safetensors"]


def test_a_folder_or_a_pipe_of_that_name_is_not_read(source: Path) -> None:
    source.with_suffix(".yaml").unlink()
    os.mkfifo(source.with_suffix(".yaml"))
    assert ckptool("convert", source, source.parent / "out" / "clean.safetensors").code == 0
    assert os.listdir(source.parent / "out") == ["clean.safetensors"]
    source.with_suffix(".yaml").unlink()
    source.with_suffix(".yaml").mkdir()
    assert ckptool("convert", source, source.parent / "out" / "other.safetensors").code == 0


def test_a_dry_run_carries_nothing(source: Path) -> None:
    assert ckptool("convert", source, source.parent / "out", "--dry-run").code == 0
    assert os.listdir(source.parent / "out") == []


def test_a_refused_source_leaves_no_sidecar(source: Path) -> None:
    source.write_bytes(source.read_bytes()[:-30])
    assert ckptool("convert", source, source.parent / "out").code == 3
    assert os.listdir(source.parent / "out") == []
