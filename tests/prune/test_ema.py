"""The average of the weights is dropped, used or kept: whole, and never mixed with the weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ckptool.prune.ema import apply_ema
from ckptool.prune.outcome import Outcome
from ckptool.tensor import Inline, Plan, Tensor
from fixtures.models import StateDict, state_dict
from fixtures.tensors import noise
from fixtures.torchfile import save_legacy, save_zip
from tests.convert.converting import equal
from tests.prune.pruning import checkpoint, prune, refused, same, same_bytes, saved

FULL = ("sd1-full-ema", "sd2.1-v-full-ema")
Tensors = dict[str, torch.Tensor]


def dotless(name: str) -> str:
    return "model_ema." + name.removeprefix("model.").replace(".", "")


def twins(tensors: StateDict) -> dict[str, str]:
    """Names of an output that uses the average, each with the name of its bytes."""
    plain = (name for name in tensors if not name.startswith("model_ema."))
    return {name: dotless(name) if name.startswith("model.") else name for name in plain}


def some(value: float, count: int = 3) -> Tensors:
    return {f"layers.{i}.weight": torch.full((2, 3), value + i) for i in range(count)}


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def is_just(pruned: Tensors, expected: Tensors) -> bool:
    return pruned.keys() == expected.keys() and all(equal(pruned[name], expected[name]) for name in expected)


@pytest.mark.parametrize("architecture", FULL)
def test_drop_is_the_default(architecture: str, tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, architecture)
    pruned = prune(path)
    same_bytes(pruned, tensors, same(name for name in tensors if not name.startswith("model_ema.")))
    dropped = {item["name"] for item in pruned.report["dropped"]}
    assert dropped == {name for name in tensors if name.startswith("model_ema.")}
    assert {"model_ema.decay", "model_ema.num_updates"} <= dropped
    assert pruned.report["removed"]["EMA"]["tensors"] == len(dropped)


@pytest.mark.parametrize("architecture", FULL)
@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_use_writes_the_average_under_the_plain_names(architecture: str, save: object, tmp_path: Path) -> None:
    tensors = state_dict(architecture, 64)
    save(tensors, tmp_path / "m.ckpt")  # type: ignore[operator]
    pruned = prune(tmp_path / "m.ckpt", "--ema", "use")
    same_bytes(pruned, tensors, twins(tensors))
    reasons = {item["name"]: item["reason"] for item in pruned.report["dropped"]}
    name = "model.diffusion_model.out.2.weight"
    assert reasons[name] == f"replaced by its EMA twin {dotless(name)}"
    assert reasons[dotless(name)] == f"written as {name}"
    assert {"from": dotless(name), "to": name} in pruned.report["renamed"]


def test_keep_keeps_all(tmp_path: Path) -> None:
    path, tensors = checkpoint(tmp_path, FULL[0])
    same_bytes(prune(path, "--ema", "keep"), tensors, same(tensors))


def test_keep_by_name_wins_over_drop(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, FULL[0])
    pruned = prune(path, "--keep", "model_ema.num_updates")
    assert [name for name in pruned.tensors if name.startswith("model_ema.")] == ["model_ema.num_updates"]


def test_use_without_an_average_is_refused(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path)
    assert "no EMA" in refused(path, "--ema", "use").err


def test_use_of_an_incomplete_average_is_refused_and_not_mixed(tmp_path: Path) -> None:
    name = "model.diffusion_model.out.2.weight"
    tensors = state_dict(FULL[0], 64)
    del tensors[dotless(name)]
    save_zip(tensors, tmp_path / "m.ckpt")
    assert name in refused(tmp_path / "m.ckpt", "--ema", "use").err
    assert prune(tmp_path / "m.ckpt").tensors.keys() == {n for n in tensors if not n.startswith("model_ema.")}


def test_use_of_an_average_with_strangers_is_refused(tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, FULL[0], **{"model_ema.stranger": noise("F32", (2,), "x")})
    assert "model_ema.stranger" in refused(path, "--ema", "use").err
    assert "model_ema.stranger" not in prune(path).tensors


def test_use_of_an_average_of_another_shape_is_refused(tmp_path: Path) -> None:
    name = "model.diffusion_model.out.2.bias"
    path, _ = checkpoint(tmp_path, FULL[0], **{dotless(name): noise("F32", (5,), "x")})
    assert name in refused(path, "--ema", "use").err


@pytest.mark.parametrize(("updates", "code"), [(0, 3), (-1, 0), (1, 0)])
def test_use_of_an_average_that_was_never_updated_is_refused(updates: int, code: int, tmp_path: Path) -> None:
    """-1 says that nobody counted, not that nothing happened."""
    tensors = {"model.a.b": torch.zeros(2), "model_ema.ab": torch.ones(2)}
    path = saved(tensors | {"model_ema.num_updates": torch.tensor(updates, dtype=torch.int32)}, tmp_path)
    if code:
        assert "never updated" in refused(path, "--ema", "use").err
    else:
        assert is_just(prune(path, "--ema", "use").tensors, {"model.a.b": torch.ones(2)})


def test_names_that_collide_without_dots_are_refused(tmp_path: Path) -> None:
    names = ("model.a.bc", "model.ab.c", "model.d", "model_ema.abc", "model_ema.d")
    path = saved({name: torch.ones(2) for name in names}, tmp_path)
    error = refused(path, "--ema", "use").err
    assert "ambiguous" in error
    assert "model.ab.c" in error
    assert set(prune(path).tensors) == {"model.a.bc", "model.ab.c", "model.d"}


def test_averages_take_their_own_precision_along(tmp_path: Path) -> None:
    tensors = {"model.a.b": torch.zeros(2, dtype=torch.float16), "model_ema.ab": torch.ones(2)}
    assert is_just(prune(saved(tensors, tmp_path), "--ema", "use").tensors, {"model.a.b": torch.ones(2)})


def test_buffers_stay_as_they_are(tmp_path: Path) -> None:
    buffers = {"model.n.num_batches_tracked": torch.tensor(7), "model.n.running_mean": torch.rand(2)}
    tensors = {"model.a.b": torch.zeros(2), "model_ema.ab": torch.ones(2)} | buffers
    expected = {"model.a.b": torch.ones(2)} | buffers
    assert is_just(prune(saved(tensors, tmp_path), "--ema", "use").tensors, expected)


@pytest.mark.parametrize("architecture", ["sd1", "sdxl-base"])
def test_a_file_that_holds_only_averages(architecture: str, tmp_path: Path) -> None:
    tensors = state_dict(architecture, 64)
    averages = {dotless(n) if n.startswith("model.") else n: tensor for n, tensor in tensors.items()}
    save_zip(averages, tmp_path / "m.ckpt")
    assert "--ema use" in refused(tmp_path / "m.ckpt").err
    same_bytes(prune(tmp_path / "m.ckpt", "--ema", "use"), tensors, same(tensors))


def test_components_of_a_file_that_holds_only_averages(tmp_path: Path) -> None:
    tensors = state_dict("sd1", 64)
    averages = {dotless(n) if n.startswith("model.") else n: t for n, t in tensors.items()}
    save_zip(averages, tmp_path / "m.ckpt")
    for component, options, prefix in (
        ("vae", (), "first_stage_model."),
        ("unet", ("--ema", "use"), "model.diffusion_model."),
    ):
        pruned = prune(tmp_path / "m.ckpt", "--only", component, *options)
        same_bytes(pruned, tensors, {n.removeprefix(prefix): n for n in tensors if n.startswith(prefix)})


def test_only_averages_and_not_all_of_them(tmp_path: Path) -> None:
    name = "model.diffusion_model.input_blocks.4.1.norm.bias"
    tensors = state_dict("sd1", 64)
    averages = {dotless(n) if n.startswith("model.") else n: t for n, t in tensors.items() if n != name}
    save_zip(averages, tmp_path / "m.ckpt")
    assert name in refused(tmp_path / "m.ckpt", "--ema", "use").err


def test_only_averages_of_an_unknown_network_are_refused(tmp_path: Path) -> None:
    path = saved({"model_ema.somethingweight": torch.ones(2)}, tmp_path)
    refused(path, "--ema", "use")
    refused(path)
    assert prune(path, "--ema", "keep").tensors.keys() == {"model_ema.somethingweight"}


def test_an_average_that_is_no_float_is_refused(tmp_path: Path) -> None:
    tensors = {"model.a.b": torch.zeros(2), "model_ema.ab": torch.ones(2, dtype=torch.int32)}
    refused(saved(tensors, tmp_path), "--ema", "use")


def test_the_average_of_an_autoencoder_inside_a_checkpoint(tmp_path: Path) -> None:
    vae = {f"first_stage_model.decoder.{i}.weight": torch.full((2,), float(i)) for i in range(3)}
    averages = {f"first_stage_model.model_ema.decoder{i}weight": torch.full((2,), i + 10.0) for i in range(3)}
    path = saved(vae | averages, tmp_path)
    assert is_just(prune(path).tensors, vae)
    assert is_just(prune(path, "--ema", "use").tensors, dict(zip(vae, averages.values(), strict=True)))


@pytest.mark.parametrize("plain", ["state_dict", "model", "net"])
@pytest.mark.parametrize("average", ["state_dict_ema", "ema", "ema_model", "model_ema"])
@pytest.mark.parametrize(("mode", "value"), [("drop", 0.0), ("use", 10.0)])
def test_an_average_in_a_dict_of_its_own(plain: str, average: str, mode: str, value: float, tmp_path: Path) -> None:
    torch.save({plain: some(0.0), average: some(10.0), "epoch": 3}, tmp_path / "m.ckpt")
    assert is_just(prune(tmp_path / "m.ckpt", "--ema", mode).tensors, some(value))


@pytest.mark.parametrize("average", ["state_dict_ema", "ema", "ema_model", "model_ema"])
def test_such_an_average_that_lacks_one(average: str, tmp_path: Path) -> None:
    torch.save({"model": some(0.0), average: some(10.0, 2)}, tmp_path / "m.ckpt")
    assert "layers.2.weight" in refused(tmp_path / "m.ckpt", "--ema", "use").err
    assert is_just(prune(tmp_path / "m.ckpt").tensors, some(0.0))


@pytest.mark.parametrize(("options", "value"), [((), 10.0), (("--ema", "use"), 10.0), (("--ema", "drop"), 0.0)])
def test_params_ema_is_what_stays_unless_it_is_dropped(options: tuple[str, ...], value: float, tmp_path: Path) -> None:
    torch.save({"params": some(0.0), "params_ema": some(10.0)}, tmp_path / "m.pth")
    assert is_just(prune(tmp_path / "m.pth", *options).tensors, some(value))


def test_names_of_the_file_and_of_the_output_both_count(tmp_path: Path) -> None:
    torch.save({"params": some(0.0), "params_ema": some(10.0)}, tmp_path / "m.pth")
    left = ["layers.1.weight", "layers.2.weight"]
    assert list(prune(tmp_path / "m.pth", "--ema", "drop", "--drop", "params.layers.0.*").tensors) == left
    path = saved(under("unet_ema.", some(10.0)), tmp_path)
    pruned = prune(path, "--ema", "use", "--drop", "unet.layers.0.*")
    assert list(pruned.tensors) == [f"unet.{name}" for name in left]


@pytest.mark.parametrize("option", ["--drop", "--keep"])
def test_a_name_of_the_average_does_not_hit_the_weights_that_it_became(option: str, tmp_path: Path) -> None:
    path, _ = checkpoint(tmp_path, FULL[0])
    assert "matches" in refused(path, "--ema", "use", option, "model_ema.diffusion*", code=2).err
    prune(path, option, "model_ema.diffusion*")


def test_params_ema_that_lacks_one_is_not_mixed(tmp_path: Path) -> None:
    torch.save({"params": some(0.0), "params_ema": some(10.0, 2)}, tmp_path / "m.pth")
    refused(tmp_path / "m.pth", "--ema", "use")
    assert is_just(prune(tmp_path / "m.pth").tensors, some(0.0))


@pytest.mark.parametrize(("mode", "value"), [("drop", 0.0), ("use", 10.0)])
def test_an_average_with_its_own_copy_of_the_weights(mode: str, value: float, tmp_path: Path) -> None:
    kept = under("online_model.", some(0.0)) | under("ema_model.", some(10.0))
    counters = {"initted": torch.tensor([True]), "step": torch.tensor([100])}
    torch.save({"model": some(0.0), "ema": kept | counters}, tmp_path / "m.pt")
    assert is_just(prune(tmp_path / "m.pt", "--ema", mode).tensors, some(value))


@pytest.mark.parametrize(("mode", "value"), [("drop", 0.0), ("use", 10.0)])
def test_a_diffusers_folder(mode: str, value: float, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    for name, number in (("unet", 0.0), ("unet_ema", 10.0), ("vae", 5.0)):
        (folder / name).mkdir(parents=True)
        save_file(some(number), folder / name / "diffusion_pytorch_model.safetensors")
    (folder / "model_index.json").write_text("{}")
    expected = under("unet.", some(value)) | under("vae.", some(5.0))
    assert is_just(prune(folder, "--ema", mode).tensors, expected)


def test_a_hundred_thousand_averages() -> None:
    """As a plan, since a file of them takes longer to write than to prune."""
    count = 100_000
    weights = tuple(Tensor(f"model.{i}.w", "F32", (1,), Inline(b"weig")) for i in range(count))
    averages = tuple(Tensor(f"model_ema.{i}w", "F32", (1,), Inline(b"mean")) for i in range(count))
    used = apply_ema(Plan("safetensors", weights + averages), "use", frozenset(), Outcome())
    assert [tensor.name for tensor in used.tensors] == [weight.name for weight in weights]
    assert all(isinstance(tensor.data, Inline) and tensor.data.data == b"mean" for tensor in used.tensors)
