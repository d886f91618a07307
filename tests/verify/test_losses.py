"""What is gone must be a known kind of loss; what stands in the place of something else must be what it should be."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.convert.converting import ckptool
from tests.verify.verifying import Tensors, changed, checkpoint, made, parity, plain, unexplained, verify

PREFIX = "model.diffusion_model."


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training checkpoint with weights and their averages."""
    return checkpoint(tmp_path_factory.mktemp("averaged") / "model.ckpt", "sd1-full-ema")


@pytest.mark.parametrize("mode", ["drop", "use", "keep"])
def test_what_prune_does_with_an_average_is_explained(averaged: Path, tmp_path: Path, mode: str) -> None:
    target, report = made("prune", averaged, tmp_path / "p.safetensors", "--ema", mode)
    for expect in ((), ("--expect", report)):
        tensors = parity(averaged, target, *expect)
        assert len(tensors["ema"]) == (686 if mode == "use" else 0)
        assert len(tensors["dropped"]) == (0 if mode == "keep" else 688)


def test_the_other_use_of_an_average_than_the_report_says_is_unexplained(averaged: Path, tmp_path: Path) -> None:
    used, says_used = made("prune", averaged, tmp_path / "u.safetensors", "--ema", "use")
    dropped, says_dropped = made("prune", averaged, tmp_path / "d.safetensors", "--ema", "drop")
    found = unexplained(averaged, dropped, "--expect", says_used)
    assert all(item["why"].startswith("holds the raw weight") for item in found.values())
    found = unexplained(averaged, used, "--expect", says_dropped)
    assert "holds the average (EMA), and the report does not say so" in {item["why"] for item in found.values()}


@pytest.mark.parametrize("cast", [False, True])
def test_a_mixture_of_weights_and_averages_is_found(averaged: Path, tmp_path: Path, cast: bool) -> None:
    used = load_file(made("prune", averaged, tmp_path / "u.safetensors", "--ema", "use")[0])
    raw = load_file(made("prune", averaged, tmp_path / "d.safetensors", "--ema", "drop")[0])
    names = [name for name in raw if name.startswith(PREFIX)]
    few = names[1::3]
    mixed = {**raw, **{name: used[name] for name in few}}
    if cast:
        mixed = {name: t.half() if t.dtype == torch.float32 else t for name, t in mixed.items()}
    save_file(mixed, tmp_path / "m.safetensors")
    found = unexplained(averaged, tmp_path / "m.safetensors")
    assert set(found) == set(few)
    assert all("a mixture is no model" in item["why"] for item in found.values())


def test_a_weight_that_is_its_own_average_belongs_to_either(tmp_path: Path) -> None:
    source = plain(tmp_path / "a.safetensors", "sd1-full-ema")
    names = [name for name in load_file(source) if name.startswith(PREFIX)]

    def same(tensors: Tensors) -> None:
        for name in names[::2]:
            tensors["model_ema." + name.removeprefix("model.").replace(".", "")] = tensors[name].clone()

    source = changed(source, tmp_path / "b.safetensors", same)
    for mode in ("use", "drop"):
        target, _ = made("prune", source, tmp_path / f"{mode}.safetensors", "--ema", mode)
        parity(source, target)


def test_raw_weights_without_average_beside_averages_are_found(tmp_path: Path) -> None:
    source = plain(tmp_path / "a.safetensors", "sd1-full-ema")
    target, _ = made("prune", source, tmp_path / "u.safetensors", "--ema", "use")
    gone = PREFIX + "out.2.weight"
    twin = "model_ema." + gone.removeprefix("model.").replace(".", "")
    weight = load_file(source)[gone]
    source = changed(source, tmp_path / "b.safetensors", lambda t: void(t.pop(twin)))
    mixed = changed(target, tmp_path / "c.safetensors", lambda t: t.update({gone: weight}))
    assert "has no average" in unexplained(source, mixed)[gone]["why"]


@pytest.mark.parametrize("layout", ["params", "state_dict"])
@pytest.mark.parametrize("mode", ["drop", "use"])
def test_averages_of_other_layouts_are_known(tmp_path: Path, layout: str, mode: str) -> None:
    weights = {f"conv{n}.weight": torch.randn(4, 4) for n in range(3)}
    averages = {name: tensor + 0.1 for name, tensor in weights.items()}
    source = tmp_path / "up.pth"
    torch.save({layout: weights, f"{layout}_ema": averages}, source)
    target, report = made("prune", source, tmp_path / "p.safetensors", "--ema", mode)
    parity(source, target)
    parity(source, target, "--expect", report)


@pytest.mark.parametrize("component", ["vae", "unet", "te"])
def test_an_extracted_component_is_explained_under_its_new_names(tmp_path: Path, component: str) -> None:
    source = checkpoint(tmp_path / "a.ckpt")
    target, report = made("prune", source, tmp_path / "p.safetensors", "--only", component)
    tensors = parity(source, target)
    assert tensors["renamed"]
    assert any("extracted" in sentence for sentence in tensors["inferred"])
    assert not parity(source, target, "--expect", report)["inferred"]


def test_an_extracted_control_network_is_explained(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "a.ckpt", "controlnet-sd1-cldm-full")
    target, _ = made("prune", source, tmp_path / "p.safetensors", "--only", "control")
    assert parity(source, target)["identical"] == len(load_file(target))


def test_a_component_that_is_gone_needs_a_word(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "a.ckpt")
    target, report = made("prune", source, tmp_path / "p.safetensors", "--without", "vae")
    found = unexplained(source, target)
    assert {item["component"] for item in found.values()} == {"vae"}
    parity(source, target, "--expect", report)
    ran, _ = verify(source, target)
    assert len(ran.err.splitlines()) < 20


def test_with_a_report_a_loss_that_it_does_not_name_is_unexplained(averaged: Path, tmp_path: Path) -> None:
    target, _ = made("prune", averaged, tmp_path / "p.safetensors", "--ema", "drop")
    _, report = made("convert", averaged, tmp_path / "c.safetensors")
    found = unexplained(averaged, target, "--expect", report)
    assert len(found) == 688
    assert {item["why"] for item in found.values()} == {"is gone, and the report does not say so"}


def test_a_cast_that_the_report_does_not_name_is_unexplained(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "a.ckpt")
    target, _ = made("fp16", source, tmp_path / "h.safetensors")
    _, report = made("convert", source, tmp_path / "c.safetensors")
    _, other = made("bf16", source, tmp_path / "b.safetensors")
    found = unexplained(source, target, "--expect", report)
    assert {item["why"] for item in found.values()} == {"was cast from F32 to F16, and the report says no such cast"}
    found = unexplained(source, target, "--expect", other)
    assert {item["why"] for item in found.values()} == {"was cast from F32 to F16, and the report says to BF16"}


def test_of_a_file_that_holds_only_averages_none_may_be_gone(tmp_path: Path) -> None:
    def only_averages(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith(PREFIX)]:
            del tensors[name]

    source = changed(plain(tmp_path / "a.safetensors", "sd1-full-ema"), tmp_path / "b.safetensors", only_averages)
    target, report = made("prune", source, tmp_path / "u.safetensors", "--ema", "use")
    assert len(parity(source, target)["ema"]) == 686
    parity(source, target, "--expect", report)
    broken = changed(target, tmp_path / "c.safetensors", lambda t: void(t.pop(PREFIX + "out.2.weight")))
    assert list(unexplained(source, broken)) == ["model_ema.diffusion_modelout2weight"]


def test_names_without_their_prefix_in_a_whole_checkpoint_are_unexplained(tmp_path: Path) -> None:
    source = plain(tmp_path / "a.safetensors")

    def strip(tensors: Tensors) -> None:
        for name in [name for name in tensors if name.startswith(PREFIX)]:
            tensors[name.removeprefix(PREFIX)] = tensors.pop(name)

    found = unexplained(source, changed(source, tmp_path / "b.safetensors", strip))
    assert len(found) == 686
    assert found["out.2.weight"]["why"] == f"was named {PREFIX}out.2.weight"


def test_training_state_may_be_gone(tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    save_file({"loss.logvar": torch.ones(3), "decoder.conv_in.weight": torch.randn(3, 3)}, source)
    target = changed(source, tmp_path / "b.safetensors", lambda t: void(t.pop("loss.logvar")))
    assert parity(source, target)["dropped"] == [{"name": "loss.logvar", "reason": "training state"}]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_repaired_position_ids_are_told(tmp_path: Path, dtype: torch.dtype) -> None:
    source = plain(tmp_path / "a.safetensors")
    name = "cond_stage_model.transformer.text_model.embeddings.position_ids"
    off = torch.arange(77)
    if dtype == torch.int64:
        off[76] = 75
    broken = changed(source, tmp_path / "b.safetensors", lambda t: t.update({name: off.to(dtype).reshape(1, 77)}))
    target, report = made("prune", broken, tmp_path / "p.safetensors", "--repair-position-ids")
    assert parity(broken, target)["repaired"] == [name]
    parity(broken, target, "--expect", report)
    wrong = changed(broken, tmp_path / "w.safetensors", lambda t: t.update({name: torch.zeros(1, 77).long()}))
    assert list(unexplained(broken, wrong)) == [name]


def test_a_report_that_is_none_is_refused(tmp_path: Path) -> None:
    source = plain(tmp_path / "a.safetensors", "vae")
    path = tmp_path / "r.json"
    for text in ("", "[", "[]", "3", '{"dropped": 1}', '{"dropped": [{}], "output": null}', "[" * 100_000):
        path.write_text(text)
        ran = ckptool("verify", source, source, "--tensors-only", "--expect", path)
        assert ran.code == 3
        assert "hint:" in ran.err
    assert ckptool("verify", source, source, "--tensors-only", "--expect", tmp_path / "none.json").code == 2


def void(_: object) -> None:
    """For a lambda that is a statement."""
