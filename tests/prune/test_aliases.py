"""What safetensors' own helper writes for tied tensors, `other: kept` in the metadata, stays true when tensors go."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.convert.converting import ckptool
from tests.prune.pruning import prune, saved
from tests.verify.models import tensors

KEPT = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
OTHER = "cond_stage_model.transformer.text_model.tied.weight"


def aliased(folder: Path, other: str = OTHER, kept: str = KEPT) -> tuple[Path, torch.Tensor]:
    values = tensors("sd1", 64)
    return saved(values, folder, {"format": "pt", "comment": "x", other: kept}), values[kept]


def metadata(folder: Path) -> dict[str, str]:
    with safe_open(folder / "out.safetensors", "pt") as file:
        return dict(file.metadata())


def test_an_alias_stays_where_both_names_stay(tmp_path: Path) -> None:
    path, _ = aliased(tmp_path)
    pruned = prune(path)
    assert OTHER not in pruned.tensors
    assert metadata(tmp_path) == {"format": "pt", "comment": "x", OTHER: KEPT}
    assert pruned.report["dropped"] == []


def test_the_bytes_stay_under_the_other_name_when_the_kept_one_goes(tmp_path: Path) -> None:
    path, tensor = aliased(tmp_path)
    pruned = prune(path, "--drop", KEPT)
    assert torch.equal(pruned.tensors[OTHER], tensor)
    assert KEPT not in pruned.tensors
    (tmp_path / "out.json").write_text(json.dumps(pruned.report))
    ran = ckptool("verify", path, tmp_path / "out.safetensors", "--expect", tmp_path / "out.json", "--tensors-only")
    assert ran.code == 0, ran.out
    assert metadata(tmp_path) == {"format": "pt", "comment": "x"}


def test_an_alias_that_is_dropped_leaves_the_metadata(tmp_path: Path) -> None:
    path, tensor = aliased(tmp_path)
    pruned = prune(path, "--drop", OTHER)
    assert torch.equal(pruned.tensors[KEPT], tensor)
    assert OTHER not in metadata(tmp_path)


def test_an_alias_of_a_component_that_goes_goes_with_its_own(tmp_path: Path) -> None:
    path, _ = aliased(tmp_path)
    pruned = prune(path, "--only", "vae")
    assert not any("text_model" in name for name in (*pruned.tensors, *metadata(tmp_path)))


def test_an_alias_follows_the_new_names(tmp_path: Path) -> None:
    first, second = "first_stage_model.encoder.conv_in.weight", "first_stage_model.encoder.tied.weight"
    path, tensor = aliased(tmp_path, second, first)
    pruned = prune(path, "--only", "vae")
    names = {name.removeprefix("first_stage_model.") for name in (first, second)}
    assert metadata(tmp_path)["encoder.tied.weight"] == "encoder.conv_in.weight"
    assert names & pruned.tensors.keys() == {"encoder.conv_in.weight"}
    assert torch.equal(pruned.tensors["encoder.conv_in.weight"], tensor)


@pytest.mark.parametrize("options", [(), ("--relative",)])
def test_what_a_threshold_changes_alike_stays_an_alias(tmp_path: Path, options: tuple[str, ...]) -> None:
    path, tensor = aliased(tmp_path)
    pruned = prune(path, "--threshold", "1e-3", *options)
    assert metadata(tmp_path)[OTHER] == KEPT
    assert not torch.equal(pruned.tensors[KEPT], tensor)
