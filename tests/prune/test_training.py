"""What training leaves goes, wherever it stands; what merely looks like it stays."""

from pathlib import Path

import pytest
import torch

from ckptool.prune.training import is_training
from fixtures.models import lightning, state_dict
from fixtures.torchfile import save_legacy, save_zip
from tests.prune.pruning import prune, refused, same, same_bytes, saved

STATES = (
    "optimizer_states.0.state.0.exp_avg", "optimizer.state.1.exp_avg_sq", "lr_schedulers.0.x", "callbacks.c.score",
    "loops.fit.x", "loss.discriminator.main.0.weight", "loss.logvar", "first_stage_model.loss.perceptual_loss.lin0.w",
    "embedding_manager.string_to_param_dict.*", "embedding_manager.initial_embeddings.*",
    "module.optimizer.state.0.exp_avg", "vae.loss.logvar",
)  # fmt: skip
OTHERS = (
    "lossless.weight", "first_stage_model.encoder.loss.weight", "model.diffusion_model.out.0.weight", "loss",
    "callbacksx.a", "conditioner.embedders.0.callbacks.x", "logvar",
)  # fmt: skip


@pytest.mark.parametrize("name", STATES)
def test_a_training_state(name: str, tmp_path: Path) -> None:
    pruned = prune(saved({"layer.weight": torch.ones(2), name: torch.ones(2)}, tmp_path))
    assert list(pruned.tensors) == ["layer.weight"]
    assert pruned.report["dropped"] == [{"name": name, "reason": "training state"}]


@pytest.mark.parametrize("name", OTHERS)
def test_no_training_state(name: str) -> None:
    assert not is_training(name)


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_a_lightning_checkpoint(save: object, tmp_path: Path) -> None:
    tensors = state_dict("sd1-full-ema", 64)
    save(lightning(tensors), tmp_path / "m.ckpt")  # type: ignore[operator]
    pruned = prune(tmp_path / "m.ckpt")
    same_bytes(pruned, tensors, same(name for name in tensors if not name.startswith("model_ema.")))
    assert pruned.report["metadata"] == {"epoch": "23", "global_step": "470000", "format": "pt"}
    assert {"callbacks", "optimizer_states", "lr_schedulers"} <= {item["name"] for item in pruned.report["dropped"]}


def test_it_stays_when_it_is_asked_for_by_name(tmp_path: Path) -> None:
    path = saved({"layer.weight": torch.ones(2), "loss.logvar": torch.ones(1)}, tmp_path)
    assert set(prune(path, "--keep", "loss.*").tensors) == {"layer.weight", "loss.logvar"}


def test_nothing_but_a_training_state_is_refused(tmp_path: Path) -> None:
    assert "nothing would be left" in refused(saved({"loss.logvar": torch.ones(1)}, tmp_path)).err
