"""The average of the weights is found in every layout, with what it lacks."""

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptool.convert.read import read
from ckptool.identify.ema import Ema, find_ema
from ckptool.identify.ldm_unet import TOPOLOGIES, names
from fixtures import manifests
from fixtures.models import StateDict, state_dict
from fixtures.torchfile import save_zip

UNET = "model.diffusion_model."
ARCHITECTURES = {
    "sd1": "Stable Diffusion 1 and 2",
    "sd1-inpainting": "Stable Diffusion 1 and 2",
    "sd2.1-v": "Stable Diffusion 1 and 2",
    "sdxl-base": "SDXL",
    "sdxl-refiner": "SDXL refiner",
}


def dotless(name: str) -> str:
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def found(tensors: object, folder: Path) -> Ema | None:
    """What is found in a file of these tensors, or of this value."""
    path = folder / "m.ckpt"
    if isinstance(tensors, dict) and all(isinstance(value, torch.Tensor) for value in tensors.values()):
        save_file(tensors, path)
    elif isinstance(tensors, dict) and any(isinstance(value, dict) for value in tensors.values()):
        torch.save(tensors, path)
    else:
        save_zip(tensors, path)
    with ExitStack() as stack:
        return find_ema(read(path, stack))


def some(count: int = 3) -> dict[str, torch.Tensor]:
    return {f"layers.{i}.weight": torch.full((2, 3), float(i)) for i in range(count)}


def under(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor + 0.5 for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def full() -> StateDict:
    return state_dict("sd1-full-ema", factor=64)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_names_of_a_topology_are_those_of_the_real_unet(architecture: str) -> None:
    real = {name for name in manifests.load(architecture) if name.startswith(UNET)}
    assert {UNET + name for name in names(TOPOLOGIES[ARCHITECTURES[architecture]])} == real


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_names_without_dots_stay_apart(topology: str) -> None:
    listed = list(names(TOPOLOGIES[topology]))
    assert len({name.replace(".", "") for name in listed}) == len(set(listed)) == len(listed)


@pytest.mark.parametrize("architecture", ["sd1-full-ema", "sd2.1-v-full-ema"])
def test_a_full_checkpoint(architecture: str, tmp_path: Path) -> None:
    tensors = state_dict(architecture, factor=64)
    ema = found(tensors, tmp_path)
    assert ema is not None
    weights = [name for name in tensors if name.startswith("model.")]
    assert {name: twin.name for name, twin in ema.twins.items()} == {name: dotless(name) for name in weights}
    assert (ema.complete, ema.missing, ema.unmatched, ema.collisions) == (True, (), (), ())
    assert [counter.name for counter in ema.counters] == ["model_ema.decay", "model_ema.num_updates"]
    assert (ema.layout, ema.updates) == ("model_ema", 470_000)
    assert ema.names == {name for name in tensors if name.startswith("model_ema.")}


@pytest.mark.parametrize("architecture", ["sd1", "sdxl-base", "vae"])
def test_no_average_where_there_is_none(architecture: str, tmp_path: Path) -> None:
    assert found(state_dict(architecture, factor=64), tmp_path) is None


@pytest.mark.parametrize("prefix", ["ema.", "ema_model."])
def test_a_layer_that_is_named_like_an_average_is_none(prefix: str, tmp_path: Path) -> None:
    assert found(some() | {f"{prefix}weight": torch.ones(2, 2), f"{prefix}1.weight": torch.ones(3)}, tmp_path) is None


def test_what_is_missing_and_what_is_unmatched(full: StateDict, tmp_path: Path) -> None:
    gone = UNET + "out.2.weight"
    tensors = {name: tensor for name, tensor in full.items() if name != dotless(gone)}
    tensors["model_ema.diffusion_modelnothing"] = full[gone]
    ema = found(tensors, tmp_path)
    assert ema is not None
    assert (ema.complete, ema.missing, ema.unmatched) == (False, (gone,), ("model_ema.diffusion_modelnothing",))


def test_buffers_are_not_missed(full: StateDict, tmp_path: Path) -> None:
    tensors = dict(full)
    for name in ("bn.running_mean", "bn.num_batches_tracked"):
        tensors[UNET + name] = full["betas"]
    ema = found(tensors, tmp_path)
    assert ema is not None
    assert ema.complete


@pytest.mark.parametrize("updates", [0, -1, 5])
def test_how_often_it_was_updated(updates: int, tmp_path: Path) -> None:
    tensors = {"model.a.b": torch.ones(2), "model_ema.ab": torch.ones(2)}
    counter = torch.tensor(updates, dtype=torch.int32)
    ema = found(tensors | {"model_ema.num_updates": counter}, tmp_path)
    assert ema is not None
    assert (ema.updates, ema.complete) == (updates, True)


@pytest.mark.parametrize(
    "counter", [torch.ones(2), torch.tensor(float("nan")), torch.ones(0), torch.ones(1 << 12), torch.tensor(1j)]
)
def test_a_counter_that_means_nothing(counter: torch.Tensor, tmp_path: Path) -> None:
    tensors = {"model.a.b": torch.ones(2), "model_ema.ab": torch.ones(2)}
    ema = found(tensors | {"model_ema.num_updates": counter}, tmp_path)
    assert ema is not None
    assert ema.updates is None


def test_names_that_are_the_same_without_dots(tmp_path: Path) -> None:
    tensors = {name: torch.ones(2) for name in ("model.a.bc", "model.ab.c", "model.d", "model_ema.abc", "model_ema.d")}
    ema = found(tensors, tmp_path)
    assert ema is not None
    assert set(ema.collisions) == {"model.a.bc", "model.ab.c"}
    assert (list(ema.twins), ema.complete) == (["model.d"], False)


@pytest.mark.parametrize("architecture", ["sd1", "sdxl-base", "sdxl-refiner", "sd2-inpainting"])
def test_a_file_that_holds_only_averages_gets_its_dots_back(architecture: str, tmp_path: Path) -> None:
    tensors = state_dict(architecture, factor=64)
    averages = {dotless(name) if name.startswith("model.") else name: t for name, t in tensors.items()}
    ema = found(averages, tmp_path)
    assert ema is not None
    assert ema.complete
    assert set(ema.twins) == {name for name in tensors if name.startswith("model.")}
    assert all(twin.name == dotless(name) for name, twin in ema.twins.items())


def test_only_averages_and_one_of_them_missing(tmp_path: Path) -> None:
    gone = UNET + "output_blocks.3.1.norm.weight"
    names = [name for name in manifests.load("sd1") if name.startswith("model.") and name != gone]
    ema = found({dotless(name): torch.ones(1) for name in names}, tmp_path)
    assert ema is not None
    assert (ema.complete, ema.missing) == (False, (gone,))


def test_only_averages_of_something_unknown(tmp_path: Path) -> None:
    ema = found({"model_ema.somethingelseweight": torch.ones(1)}, tmp_path)
    assert ema is not None
    assert (ema.complete, ema.twins, ema.unmatched) == (False, {}, ("model_ema.somethingelseweight",))


def test_an_autoencoder_that_was_averaged_as_a_whole(tmp_path: Path) -> None:
    vae = {name: torch.ones(1) for name in manifests.load("vae")}
    loss = {"loss.discriminator.main.0.weight": torch.ones(1)}
    ema = found(vae | loss | {dotless(name): torch.zeros(1) for name in vae}, tmp_path)
    assert ema is not None
    assert ema.complete
    assert set(ema.twins) == set(vae)


@pytest.mark.parametrize("plain", ["state_dict", "model", "net"])
@pytest.mark.parametrize("average", ["state_dict_ema", "ema", "ema_model", "model_ema", "ema_state_dict"])
def test_averages_in_a_dict_beside_the_state_dict(plain: str, average: str, tmp_path: Path) -> None:
    averages = {name: tensor + 1 for name, tensor in some().items()}
    ema = found({plain: some(), average: averages, "epoch": 3}, tmp_path)
    assert ema is not None
    assert ema.complete
    assert {name: twin.name for name, twin in ema.twins.items()} == {name: f"{average}.{name}" for name in some()}


@pytest.mark.parametrize("average", ["model_ema", "state_dict_ema", "ema"])
@pytest.mark.parametrize(("inner", "outer"), [("module.", ""), ("", "module."), ("module.", "module.")])
def test_one_side_or_both_are_wrapped(average: str, inner: str, outer: str, tmp_path: Path) -> None:
    """As by torch.optim.swa_utils.AveragedModel, or by data parallel training."""
    averages = under(inner, some()) | {"n_averaged": torch.tensor(7)}
    ema = found({"model": under(outer, some()), average: averages}, tmp_path)
    assert ema is not None
    assert (ema.complete, ema.updates) == (True, 7)
    names = {outer + name: f"{average}.{inner}{name}" for name in some()}
    assert {name: twin.name for name, twin in ema.twins.items()} == names


def test_an_average_beside_its_own_copy_of_the_weights(tmp_path: Path) -> None:
    kept = {f"online_model.{name}": tensor for name, tensor in some().items()} | under("ema_model.", some())
    counters = {"initted": torch.tensor([True]), "step": torch.tensor([100])}
    ema = found({"model": some(), "ema": kept | counters}, tmp_path)
    assert ema is not None
    assert ema.complete
    assert ema.layout.startswith("ema.ema_model")
    assert ema.names >= {f"ema.ema_model.{name}" for name in some()}


def test_params_ema_has_the_plain_names_already(tmp_path: Path) -> None:
    averages = {name: tensor + 1 for name, tensor in some().items()}
    ema = found({"params": some(), "params_ema": averages}, tmp_path)
    assert ema is not None
    assert (ema.layout, ema.raw_prefix, ema.complete) == ("params_ema", "params.", True)
    assert {name: twin.name for name, twin in ema.twins.items()} == {f"params.{name}": name for name in some()}


def test_params_ema_that_lacks_one(tmp_path: Path) -> None:
    ema = found({"params": some(3), "params_ema": some(2)}, tmp_path)
    assert ema is not None
    assert (ema.complete, ema.missing) == (False, ("params.layers.2.weight",))


def test_a_diffusers_folder(tmp_path: Path) -> None:
    tensors = under("unet.", some()) | under("unet_ema.", some()) | under("vae.", some())
    ema = found(tensors, tmp_path)
    assert ema is not None
    assert (ema.layout, ema.complete, set(ema.twins)) == ("unet_ema", True, set(under("unet.", some())))


def test_a_diffusers_folder_with_nothing_but_the_average(tmp_path: Path) -> None:
    ema = found(under("unet_ema.", some()) | under("vae.", some()), tmp_path)
    assert ema is not None
    assert (ema.complete, set(ema.twins)) == (True, set(under("unet.", some())))


def test_a_component_that_is_not_averaged_is_not_missing(tmp_path: Path) -> None:
    tensors = state_dict("sd1", factor=64)
    averages = {f"state_dict_ema.{name}": t for name, t in tensors.items() if name.startswith("model.")}
    ema = found({**tensors, **averages}, tmp_path)
    assert ema is not None
    assert (ema.complete, ema.missing) == (True, ())


def test_one_missing_layer_of_an_unknown_network_is_missed(tmp_path: Path) -> None:
    tensors = some() | {"last.weight": torch.ones(2)} | under("state_dict_ema.", some())
    ema = found(tensors, tmp_path)
    assert ema is not None
    assert (ema.complete, ema.missing) == (False, ("last.weight",))


def test_two_averages_of_the_same_weights(tmp_path: Path) -> None:
    tensors = under("model.", some()) | under("model_ema.", some()) | under("state_dict_ema.model.", some())
    ema = found(tensors, tmp_path)
    assert ema is not None
    assert not ema.complete
    assert ema.names == {name for name in tensors if "ema" in name}
