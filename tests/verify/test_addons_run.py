"""Addons run on a base: equal ones give no difference, and what they do is what their formulas say."""

from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ckptool.convert.read import read
from ckptool.verify.addons import apply
from ckptool.verify.ldm_extra import components_of
from ckptool.verify.mapped import Maps, fill
from fixtures.tensors import noise
from fixtures.torchfile import save_zip
from tests.verify.models import QUICK, Tensors, changed, pair, ran, save, tensors

ADAPTERS = ("lora-kohya-sd1", "locon-kohya-sd1", "lycoris-loha-sd1", "lycoris-locon-dora-sd1")
FACTOR = 32


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    values = {name: t for name, t in tensors("sd1").items() if not name.startswith("first_stage_model.")}
    return save(values, tmp_path_factory.mktemp("base") / "base.safetensors")


@pytest.mark.parametrize("architecture", ADAPTERS)
def test_an_equal_adapter_gives_no_difference_and_another_one_does(
    tmp_path: Path, base: Path, architecture: str
) -> None:
    values = tensors(architecture)
    settings = replace(QUICK, steps=1, base=base)
    same = pair(tmp_path, values, values, settings)
    assert set(same) == {"unet", "text_encoder"}
    assert all(result.max_abs == 0 for result in same.values())
    assert not any(name == "modules left out" for result in same.values() for name, _ in result.settings)
    name = next(n for n in values if "unet" in n and n.endswith(("up.weight", "hada_w1_a")))
    other = pair(tmp_path, values, changed(values, name, lambda t: t * 3), settings)
    assert other["unet"].relative_l2 > 0
    assert other["text_encoder"].max_abs == 0


def applied(tmp_path: Path, base: Path, values: Tensors, name: str) -> torch.Tensor:
    """A weight of the base's UNet as an adapter makes it."""
    path = save(values, tmp_path / "adapter.safetensors")
    with ExitStack() as stack:
        result = apply(read(path, stack), components_of(read(base, stack)))
        assert not result.left_out
        weight = result.weights["unet"][name]
        out = torch.empty(weight.shape)
        fill(weight, Maps(), out)
        return out


LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
OWN = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


def test_what_an_adapter_adds_is_what_its_formula_says(tmp_path: Path, base: Path) -> None:
    weight = tensors("sd1", only=OWN)[OWN]
    rows, columns = weight.shape
    down, up, alpha = torch.randn(2, columns), torch.randn(rows, 2), torch.tensor(4.0)
    lora = {f"{KOHYA}.lora_down.weight": down, f"{KOHYA}.lora_up.weight": up, f"{KOHYA}.alpha": alpha}
    added = weight + up @ down * 2
    assert torch.allclose(applied(tmp_path, base, lora, LAYER), added, rtol=1e-5)

    lengths = torch.rand(rows, 1) + 0.5
    dora = applied(tmp_path, base, {**lora, f"{KOHYA}.dora_scale": lengths}, LAYER)
    assert torch.allclose(dora, added * lengths / added.norm(dim=1, keepdim=True), rtol=1e-5)

    halves = {f"{KOHYA}.hada_w{n}_{side}": torch.randn(rows, 2) if side == "a" else torch.randn(2, columns)
              for n in (1, 2) for side in "ab"}  # fmt: skip
    one, two = (halves[f"{KOHYA}.hada_w{n}_a"] @ halves[f"{KOHYA}.hada_w{n}_b"] for n in (1, 2))
    loha = applied(tmp_path, base, {**halves, f"{KOHYA}.alpha": alpha}, LAYER)
    assert torch.allclose(loha, weight + one * two * 2, rtol=1e-4, atol=1e-6)

    small, large = torch.randn(2, 2), torch.randn(rows // 2, columns // 2)
    lokr = applied(tmp_path, base, {f"{KOHYA}.lokr_w1": small, f"{KOHYA}.lokr_w2": large}, LAYER)
    assert torch.allclose(lokr, weight + torch.kron(small, large), rtol=1e-5, atol=1e-6)

    diff = torch.randn(rows, columns)
    assert torch.equal(applied(tmp_path, base, {f"{KOHYA}.diff": diff}, LAYER), weight + diff)

    factors = {f"{KOHYA}.weight": torch.rand(rows), f"{KOHYA}.on_input": torch.tensor(False)}
    assert torch.equal(applied(tmp_path, base, factors, LAYER), weight * factors[f"{KOHYA}.weight"][:, None])


def test_without_a_base_a_seeded_one_of_the_right_architecture_is_taken(tmp_path: Path) -> None:
    values = tensors("lora-kohya-sd2", only="lora_unet_")
    result = pair(tmp_path, values, values, replace(QUICK, steps=1))["unet"]
    assert result.skipped is None
    assert ("base", "seeded weights") in result.settings
    assert result.max_abs == 0
    assert result.original.any()


def test_an_adapter_for_other_widths_is_not_run(tmp_path: Path) -> None:
    values = tensors("lora-kohya-sd1", only="lora_unet_")
    other = save(tensors("sd1", 16, only="model.diffusion_model."), tmp_path / "wide.safetensors")
    result = pair(tmp_path, values, values, replace(QUICK, steps=1, base=other))
    assert all(component.skipped for component in result.values())


def test_an_embedding_changes_the_text_it_stands_in(tmp_path: Path, base: Path) -> None:
    values = {"emb_params": torch.randn(4, 768 // FACTOR)}
    settings = replace(QUICK, base=base)
    assert pair(tmp_path, values, values, settings)["text_encoder"].max_abs == 0
    other = changed(values, "emb_params", lambda t: t * 1.01)
    result = pair(tmp_path, values, other, settings)["text_encoder"]
    assert result.relative_l2 > 0
    assert result.parted == "embeddings"


def hypernetworks(width: int, **settings: object) -> dict[object, object]:
    """One for the text of a scaled-down base."""
    tensors_of = {
        0: noise("F32", (width * 2, width), "first"), 1: noise("F32", (width, width * 2), "last"),
    }  # fmt: skip
    side = OrderedDict((f"linear.{number}.weight", tensor) for number, tensor in tensors_of.items())
    return {width: (side, side), "activation_func": "linear", "activate_output": False, **settings}


def test_a_hypernetwork_changes_the_attention_of_its_widths(tmp_path: Path, base: Path) -> None:
    width = 768 // FACTOR
    save_zip(hypernetworks(width), tmp_path / "linear.pt")
    save_zip(hypernetworks(width, activation_func="relu"), tmp_path / "relu.pt")
    settings = replace(QUICK, steps=1, base=base)
    assert ran(tmp_path / "linear.pt", tmp_path / "linear.pt", settings)["unet"].max_abs == 0
    result = ran(tmp_path / "linear.pt", tmp_path / "relu.pt", settings)["unet"]
    assert result.relative_l2 > 0
    assert result.parted == "down_blocks.0"


def test_a_function_that_no_hypernetwork_has_is_not_looked_up(tmp_path: Path, base: Path) -> None:
    save_zip(hypernetworks(768 // FACTOR, activation_func="ctc_loss"), tmp_path / "odd.pt")
    (result,) = ran(tmp_path / "odd.pt", tmp_path / "odd.pt", replace(QUICK, base=base)).values()
    assert result.skipped is not None
    assert "activation" in result.skipped


CONTROLS = ("controlnet-sd1", "controlnet-sd2", "diffusers-controlnet-sd1")


@pytest.mark.parametrize("architecture", CONTROLS)
def test_a_controlnet_is_run_with_its_unet(tmp_path: Path, architecture: str) -> None:
    values = tensors(architecture)
    name = next(n for n in values if n.endswith(("zero_convs.3.0.weight", "controlnet_down_blocks.3.weight")))
    result = pair(tmp_path, values, changed(values, name, lambda t: t * 2), replace(QUICK, steps=1))["control"]
    errors = {step.name: step.figures.relative_l2 for step in result.steps}
    assert errors["residual 2"] == 0 < errors["residual 3"]
    assert errors["t=999"] > 0
    assert result.parted == "controlnet_down_blocks.3"


def test_the_unet_beside_a_controlnet_does_not_count_as_a_difference_of_it(tmp_path: Path) -> None:
    parts = tensors("controlnet-sd1-cldm-full")
    values = {n: t for n, t in parts.items() if n.startswith(("control_model.", "model.diffusion_model."))}
    name = "model.diffusion_model.input_blocks.0.0.weight"
    result = pair(tmp_path, values, changed(values, name, lambda t: t * 2), replace(QUICK, steps=1))
    assert result["unet"].relative_l2 > 0
    assert result["control"].max_abs == 0
