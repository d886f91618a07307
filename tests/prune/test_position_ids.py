"""Position ids are repaired only when that is asked for."""

from pathlib import Path

import pytest
import torch

from tests.convert.converting import equal
from tests.prune.pruning import prune, saved

NAME = "cond_stage_model.transformer.text_model.embeddings.position_ids"
RIGHT = torch.arange(77)[None]


def merged() -> torch.Tensor:
    """What merging makes of them: 41 and 75 are a little too small."""
    ids = RIGHT.float()
    ids[0, 41], ids[0, 75] = 40.9987, 74.9975
    return ids


def test_they_stay_as_they_are_by_default(tmp_path: Path) -> None:
    assert equal(prune(saved({NAME: merged()}, tmp_path)).tensors[NAME], merged())


@pytest.mark.parametrize(
    ("ids", "off"),
    [
        (merged(), [41, 75]),
        (RIGHT.float(), []),
        (RIGHT.half(), []),
        (RIGHT.bfloat16(), []),
        (RIGHT.int(), []),
        (RIGHT + 1, list(range(77))),
        (RIGHT[0].float(), []),
        (torch.full((1, 77), float("nan")), list(range(77))),
        (torch.full((1, 77), float("inf")), list(range(77))),
    ],
)
def test_repaired_when_asked_for(ids: torch.Tensor, off: list[int], tmp_path: Path) -> None:
    pruned = prune(saved({NAME: ids}, tmp_path), "--repair-position-ids")
    assert equal(pruned.tensors[NAME], RIGHT.reshape(ids.shape))
    (told,) = pruned.report["repaired"]
    assert (told["name"], told["to"], told["off"]) == (NAME, "I64", off)
    assert "position ids of" in pruned.words


@pytest.mark.parametrize(
    "ids",
    [RIGHT, torch.ones(2, 77), torch.ones(()), torch.empty(0), torch.ones(1 << 17), torch.ones(3, dtype=torch.bool)],
)
def test_what_is_right_or_no_list_of_positions_stays(ids: torch.Tensor, tmp_path: Path) -> None:
    pruned = prune(saved({NAME: ids}, tmp_path), "--repair-position-ids")
    assert equal(pruned.tensors[NAME], ids)
    assert pruned.report["repaired"] == []


def test_only_tensors_of_that_name(tmp_path: Path) -> None:
    tensors = {"my_position_ids": torch.ones(3), "position_ids.weight": torch.ones(3), "x": torch.ones(3)}
    pruned = prune(saved(tensors, tmp_path), "--repair-position-ids")
    assert all(equal(pruned.tensors[name], tensors[name]) for name in tensors)
