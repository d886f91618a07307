"""Weights as torch sees them, streamed layer by layer, are those that it would have loaded."""

import zipfile
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from ckptool.convert.read import read
from ckptool.source import Memory, Record
from ckptool.tensor import Cast, Inline, Mapped, Plan, Span, Strided, Tensor
from ckptool.verify.ldm_extra import Weight, components_of
from ckptool.verify.mapped import Maps, fill, resident
from ckptool.verify.networks import build
from ckptool.verify.steps import Inputs, run_unet
from tests.convert.test_archives import rezip
from tests.verify.models import halved, save, tensors

INPUTS = Inputs(steps=1, size=16, seed=0, device="cpu", prediction="epsilon", base=None)
UNET = "model.diffusion_model."


def output(module: torch.nn.Module, inputs: Inputs = INPUTS) -> torch.Tensor:
    """The prediction of a network that was loaded in the usual way."""
    with torch.inference_mode():
        latent = inputs.noise("latent", 1, 4, inputs.size, inputs.size)
        text = inputs.noise("text", 1, 77, module.config.cross_attention_dim)
        result: torch.Tensor = module(latent, torch.tensor([999.0]), encoder_hidden_states=text).sample
        return result


@pytest.mark.parametrize("half", [False, True])
def test_a_streamed_unet_gives_to_the_bit_what_a_loaded_one_gives(tmp_path: Path, half: bool) -> None:
    values = tensors("diffusers-unet-sd1")
    values = halved(values) if half else values
    torch.set_num_threads(1)
    with ExitStack() as stack, torch.inference_mode():
        plan = read(save(values, tmp_path / "unet.safetensors"), stack)
        network = build("unet", components_of(plan)["unet"])
        loaded = UNet2DConditionModel(**network.config.arguments).eval()
        loaded.load_state_dict({name: tensor.float() for name, tensor in values.items()}, strict=True)
        streamed = next(run_unet(network, INPUTS)).values
        assert streamed.abs().max() > 0
        assert torch.equal(streamed, output(loaded))


def test_an_ldm_unet_gives_what_its_diffusers_twin_gives(tmp_path: Path) -> None:
    """The names of LDM lead to the layers that diffusers' own conversion puts the weights in."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    values = tensors("sd1", only=UNET)
    with ExitStack() as stack, torch.inference_mode():
        plan = read(save(values, tmp_path / "unet.safetensors"), stack)
        network = build("unet", components_of(plan)["unet"])
        loaded = UNet2DConditionModel(**network.config.arguments).eval()
        loaded.load_state_dict(
            convert_ldm_unet_checkpoint(dict(values), {**loaded.config, "layers_per_block": 2}), strict=True
        )
        torch.set_num_threads(1)
        assert torch.equal(next(run_unet(network, INPUTS)).values, output(loaded))


def test_an_ldm_vae_leads_where_diffusers_puts_it(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    values = tensors("sd1", only="first_stage_model.")
    with ExitStack() as stack, torch.inference_mode():
        plan = read(save(values, tmp_path / "vae.safetensors"), stack)
        network = build("vae", components_of(plan)["vae"])
        loaded = AutoencoderKL(**network.config.arguments).eval()
        loaded.load_state_dict(convert_ldm_vae_checkpoint(dict(values), loaded.config), strict=True)
        torch.set_num_threads(1)
        latent = INPUTS.noise("decoded", 1, 4, 8, 8)
        assert torch.equal(network.module.decode(latent).sample, loaded.decode(latent).sample)


def test_an_openclip_encoder_is_its_clip_twin(tmp_path: Path) -> None:
    """Stacked matrices are cut into three, and the projection is turned."""
    prefix = "conditioner.embedders.1.model."
    values = tensors("sdxl-base", only=prefix)
    with ExitStack() as stack, torch.inference_mode():
        weights = components_of(read(save(values, tmp_path / "te.safetensors"), stack))["text_encoder_2"]
        stacked = values[f"{prefix}transformer.resblocks.3.attn.in_proj_weight"]
        maps = Maps()
        width = stacked.shape[1]
        for number, part in enumerate("qkv"):
            out = torch.empty(width, width)
            fill(weights[f"encoder.layers.3.self_attn.{part}_proj.weight"], maps, out)
            assert torch.equal(out, stacked[number * width : (number + 1) * width])
        turned = torch.empty(width, width)
        fill(weights["text_projection.weight"], maps, turned)
        assert torch.equal(turned, values[f"{prefix}text_projection"].T)


def test_f32_weights_are_used_where_they_lie_if_that_is_aligned(tmp_path: Path) -> None:
    values = {"conv": torch.randn(8, 4, 3, 3), "matrix": torch.randn(8, 8), "half": torch.randn(8, 8).half()}
    torch.save(values, tmp_path / "a.pt")  # aligns every storage
    with ExitStack() as stack:
        maps = Maps()
        weights = {t.name: Weight(t, t.shape) for t in read(tmp_path / "a.pt", stack).tensors}
        for name in ("conv", "matrix"):
            one, two = (resident(weights[name], maps, tuple(values[name].shape)) for _ in range(2))
            assert one is not None
            assert two is not None
            assert one.data_ptr() == two.data_ptr()
            assert torch.equal(one, values[name])
        assert resident(weights["half"], maps, (8, 8)) is None


def test_matrices_in_another_place_are_not_multiplied_there(tmp_path: Path) -> None:
    """Vectors times matrices differ in the last bits from place to place, and so would two copies of a file."""
    values = {"bias": torch.randn(5), "matrix": torch.randn(8, 8)}
    path = save(values, tmp_path / "a.safetensors", {"comment": "x" * 3})
    with ExitStack() as stack:
        maps = Maps()
        for tensor in read(path, stack).tensors:
            found = resident(Weight(tensor, tensor.shape), maps, tensor.shape)
            assert found is None or found.dim() == 1 or found.data_ptr() % 64 == 0
            out = torch.empty(tensor.shape)
            fill(Weight(tensor, tensor.shape), maps, out)
            assert torch.equal(out, values[tensor.name])


def memory(data: bytes) -> Record:
    return Record.whole(Memory(data, "memory"))


def double(elements: memoryview) -> None:
    torch.frombuffer(elements, dtype=torch.float32).mul_(2)


def to_half(source: memoryview, target: memoryview) -> None:
    torch.frombuffer(target, dtype=torch.float16).copy_(torch.frombuffer(source, dtype=torch.float32))


def test_what_does_not_lie_in_a_file_is_made() -> None:
    numbers = torch.arange(12, dtype=torch.float32) / 3
    raw = memory(numbers.numpy().tobytes())
    span = Span(raw, 0, 48)
    cases = (
        (Tensor("inline", "F32", (12,), Inline(numbers.numpy().tobytes())), numbers),
        (Tensor("span", "F32", (12,), span), numbers),
        (Tensor("turned", "F32", (4, 3), Strided(raw, 4, 0, (4, 3), (1, 4))), numbers.view(3, 4).T),
        (Tensor("doubled", "F32", (12,), Mapped(span, 4, double)), numbers * 2),
        (Tensor("cast", "F16", (12,), Cast(span, "F32", "F16", to_half)), numbers.half().float()),
    )
    for tensor, expected in cases:
        out = torch.empty(tensor.shape)
        fill(Weight(tensor, tensor.shape), Maps(), out)
        assert torch.equal(out, expected.contiguous()), tensor.name


def test_a_scaled_fp8_weight_is_multiplied(tmp_path: Path) -> None:
    values = tensors("diffusers-unet-sd1")
    name = "mid_block.resnets.0.conv1.weight"
    eighth = values[name].to(torch.float8_e4m3fn)
    scale = torch.tensor(0.25)
    path = save({**values, name: eighth, name.replace("weight", "scale_weight"): scale}, tmp_path / "fp8.safetensors")
    with ExitStack() as stack:
        weights = components_of(read(path, stack))["unet"]
        out = torch.empty(eighth.shape)
        fill(weights[name], Maps(), out)
        assert torch.equal(out, eighth.float() * 0.25)
        assert not any("scale" in key for key in weights)


def test_a_deflated_archive_is_unpacked_while_a_layer_runs(tmp_path: Path) -> None:
    values = {"w": torch.randn(16, 16)}
    torch.save(values, tmp_path / "a.pt")
    packed = tmp_path / "b.pt"
    rezip((tmp_path / "a.pt").read_bytes(), packed, compression=zipfile.ZIP_DEFLATED)
    with ExitStack() as stack:
        plan: Plan = read(packed, stack)
        (tensor,) = plan.tensors
        out = torch.empty(16, 16)
        fill(Weight(tensor, tensor.shape), Maps(), out)
        assert torch.equal(out, values["w"])
