"""`--rank-energy`, `--rank auto`: which rank is chosen, and why it is that one."""

from pathlib import Path

import pytest
import torch

from ckptool.errors import UsageError
from ckptool.prune.rank import RankStep
from tests.prune.ranks import done, lora, random, with_values

VALUES = [8.0, 4.0, 2.0, 1.0, 0.5, 0.25, 0.125, 0.0625]


@pytest.mark.parametrize(("energy", "rank"), [(0.5, 1), (0.76, 2), (0.95, 3), (0.99, 4), (0.9999, 7), (1.0, 8)])
def test_energy_is_the_share_of_the_squared_singular_values(tmp_path: Path, energy: float, rank: int) -> None:
    tensors = lora("x", *with_values(VALUES, 96, 64), 8.0, torch.float64)
    made = done(tmp_path, tensors, energy=energy)
    assert made.tensors["x.lora_down.weight"].shape[0] == rank
    held = sum(value**2 for value in VALUES[:rank]) / sum(value**2 for value in VALUES)
    assert made.report["rank"]["x"]["energy"] == pytest.approx(held)
    assert held >= energy


def test_directions_without_energy_go_at_an_energy_of_one(tmp_path: Path) -> None:
    up, down = with_values(VALUES[:3], 96, 64)
    padded = torch.cat([up, torch.zeros(96, 5)], 1), torch.cat([down, random(5, 64)])
    assert done(tmp_path, lora("x", *padded, 8.0), energy=1.0).tensors["x.lora_down.weight"].shape[0] == 3


def test_of_a_rank_and_an_energy_the_smaller_counts(tmp_path: Path) -> None:
    tensors = lora("x", *with_values(VALUES, 96, 64))
    assert done(tmp_path, tensors, rank=2, energy=0.99).tensors["x.lora_down.weight"].shape[0] == 2
    assert done(tmp_path, tensors, rank=6, energy=0.99).tensors["x.lora_down.weight"].shape[0] == 4


def test_auto_keeps_what_stands_out_of_noise_however_little_energy_it_has(tmp_path: Path) -> None:
    noise = [0.02 + 0.0001 * n for n in range(53, 0, -1)]
    tensors = lora("x", *with_values([100.0, *[1.0] * 10, *noise], 96, 64))
    assert done(tmp_path, tensors, rank="auto").tensors["x.lora_down.weight"].shape[0] == 11
    assert done(tmp_path, tensors, energy=0.99).tensors["x.lora_down.weight"].shape[0] == 1


@pytest.mark.parametrize("values", [[1.0] * 16, [0.9**n for n in range(16)], [0.1**n for n in range(16)]])
def test_auto_loses_a_tenth_at_most(tmp_path: Path, values: list[float]) -> None:
    made = done(tmp_path, lora("x", *with_values(values, 96, 64)), rank="auto")
    assert made.report["rank"]["x"]["relative_error"] <= 0.1
    assert made.report["rank"]["x"]["to"] < 16 or values[-1] > 0.2


@pytest.mark.parametrize(
    "options", [{"rank": 0}, {"rank": -1}, {"energy": 0.0}, {"energy": 1.1}, {"energy": float("nan")}]
)
def test_a_rank_or_energy_that_means_nothing_is_a_usage_error(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        RankStep(**options)  # type: ignore[arg-type]
