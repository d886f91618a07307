"""A small file cannot ask for hours of arithmetic, and an honest one is never cut short."""

import json
from pathlib import Path

import pytest
import torch

from ckptool.prune import effort
from ckptool.prune.effort import Effort, decomposing, multiplying
from ckptool.prune.svd import Factored
from tests.convert.converting import ckptool


def lora(count: int, rows: int, rank: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    parts = {}
    for number in range(count):
        name = f"lora_unet_down_blocks_0_attentions_{number}_proj_in"
        generator = torch.Generator().manual_seed(number)
        parts[f"{name}.lora_up.weight"] = torch.randn(rows, rank, generator=generator) * scale
        parts[f"{name}.lora_down.weight"] = torch.randn(rank, rows, generator=generator) * scale
    return parts


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for one of these modules."""
    monkeypatch.setattr(effort, "FLOOR", multiplying(640, 4, 640) * 3 // 2)
    monkeypatch.setattr(effort, "PER_BYTE", 0)


@pytest.mark.usefixtures("little")
def test_near_zero_modules_beyond_the_effort_stay(tmp_path: Path) -> None:
    torch.save(lora(3, 640, 4, 1e-6), tmp_path / "m.pt")
    ran = ckptool("prune", tmp_path / "m.pt", "--threshold", "1e-5", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["kept"] == 4


@pytest.mark.usefixtures("little")
def test_modules_whose_rank_is_beyond_the_effort_keep_it(tmp_path: Path) -> None:
    torch.save(lora(3, 640, 64), tmp_path / "m.pt")
    ran = ckptool("prune", tmp_path / "m.pt", "--rank", "2", "--json")
    assert ran.code == 0, ran.err
    assert len(json.loads(ran.out)["rank"]) == 1
    assert "more arithmetic than a file of its size should" in ran.err


def test_the_effort_of_a_file_is_spent_once() -> None:
    left = Effort(multiplying(100, 1, 100))
    assert left.allows(multiplying(100, 1, 100))
    assert not left.allows(1)


def test_the_widest_honest_lora_is_within_the_effort() -> None:
    """Rank 1024 on a layer of Flux, as extraction tools write it in F16."""

    class Matrix:
        def __init__(self, *shape: int) -> None:
            self.shape = shape

    rows, rank, columns = 12288, 1024, 3072
    work = decomposing(Factored(Matrix(rows, rank), Matrix(rank, columns)))
    assert 500 * work <= Effort.of(500 * 2 * rank * (rows + columns)).left
