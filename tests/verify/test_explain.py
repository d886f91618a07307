"""Every tensor of a candidate is explained by the original, or named as unexplained."""

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fixtures.manifests import names
from tests.convert.converting import ckptool
from tests.verify.verifying import Tensors, changed, checkpoint, parity, plain, unexplained, verify

ARCHITECTURES = [name for name in names() if not name.startswith(("hypernetwork", "textual-inversion"))]
WORD = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain(tmp_path_factory.mktemp("original") / "model.safetensors")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_exact_copy_is_identical(tmp_path: Path, architecture: str) -> None:
    source = checkpoint(tmp_path / "a.ckpt", architecture)
    copy = plain(tmp_path / "b.safetensors", architecture)
    tensors = parity(source, copy)
    assert tensors["identical"] == len(load_file(copy))
    assert not tensors["dropped"]


def flip(tensors: Tensors, generator: random.Random) -> tuple[str, int]:
    """One bit of one value of one tensor, as any of them may be damaged."""
    name = generator.choice([name for name, tensor in tensors.items() if tensor.numel()])
    tensor = tensors[name] = tensors[name].clone()
    flat = tensor.reshape(-1).view(WORD[tensor.element_size()])
    index = generator.randrange(flat.numel())
    bit = generator.randrange(8 * tensor.element_size() - 1)
    flat[index] = int(flat[index]) ^ (1 << bit)
    return name, index


@pytest.mark.parametrize("seed", range(12))
def test_one_flipped_bit_anywhere_is_found_and_named(original: Path, tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    where: list[tuple[str, int]] = []
    damaged = changed(original, tmp_path / "d.safetensors", lambda t: where.append(flip(t, generator)))
    found = unexplained(original, damaged)
    ((name, index),) = where
    assert list(found) == [name]
    first = found[name]["first_difference"]
    shape = load_file(original)[name].shape
    assert first["differing"] == 1
    assert torch.zeros(shape)[tuple(first["index"])].shape == ()
    assert int(torch.arange(shape.numel()).reshape(shape)[tuple(first["index"])]) == index


def test_a_value_set_to_zero_is_no_threshold(original: Path, tmp_path: Path) -> None:
    name = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"

    def change(tensors: Tensors) -> None:
        tensors[name].view(-1)[3] = 0

    found = unexplained(original, changed(original, tmp_path / "z.safetensors", change))
    assert list(found) == [name]
    assert found[name]["first_difference"]["candidate"] == 0


def test_the_payload_of_a_nan_is_a_difference_between_copies(tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "a.ckpt", "vae")
    before = plain(tmp_path / "b.safetensors", "vae")
    nan = changed(before, tmp_path / "nan.safetensors", lambda t: t["quant_conv.bias"].fill_(float("nan")))

    def change(tensors: Tensors) -> None:
        tensors["quant_conv.bias"].view(torch.int32)[0] ^= 1

    assert list(unexplained(nan, changed(nan, tmp_path / "other.safetensors", change))) == ["quant_conv.bias"]
    assert list(unexplained(source, nan)) == ["quant_conv.bias"]


def test_a_swapped_pair_of_equal_shape_is_named_as_one(original: Path, tmp_path: Path) -> None:
    one = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    other = one.replace("to_q", "to_k")

    def change(tensors: Tensors) -> None:
        tensors[one], tensors[other] = tensors[other], tensors[one]

    found = unexplained(original, changed(original, tmp_path / "s.safetensors", change))
    assert set(found) == {one, other}
    assert found[one]["why"] == f"holds the values of {other}"
    assert found[other]["why"] == f"holds the values of {one}"


def test_a_swap_is_named_after_a_cast_as_well(original: Path, tmp_path: Path) -> None:
    one = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    other = one.replace("to_q", "to_k")

    def change(tensors: Tensors) -> None:
        tensors[one], tensors[other] = tensors[other], tensors[one]
        tensors.update({name: t.half() for name, t in tensors.items() if t.dtype == torch.float32})

    found = unexplained(original, changed(original, tmp_path / "s.safetensors", change))
    assert {item["why"] for item in found.values()} == {f"holds the values of {one}", f"holds the values of {other}"}


def test_a_missing_tensor_is_named(original: Path, tmp_path: Path) -> None:
    name = "first_stage_model.decoder.conv_in.bias"
    found = unexplained(original, changed(original, tmp_path / "m.safetensors", lambda t: void(t.pop(name))))
    assert {name: item["why"] for name, item in found.items()} == {name: "is gone"}


def test_an_extra_tensor_is_named(original: Path, tmp_path: Path) -> None:
    def change(tensors: Tensors) -> None:
        tensors["model.diffusion_model.extra.weight"] = torch.ones(2, 2)

    found = unexplained(original, changed(original, tmp_path / "e.safetensors", change))
    assert {name: item["why"] for name, item in found.items()} == {
        "model.diffusion_model.extra.weight": "is not in the original"
    }


def test_a_tensor_under_another_name_is_named_as_what_it_is(original: Path, tmp_path: Path) -> None:
    name = "first_stage_model.decoder.conv_in.weight"

    def change(tensors: Tensors) -> None:
        tensors["first_stage_model.decoder.conv_first.weight"] = tensors.pop(name)

    found = unexplained(original, changed(original, tmp_path / "e.safetensors", change))
    assert found["first_stage_model.decoder.conv_first.weight"]["why"] == f"holds the values of {name}"
    assert found[name]["why"] == "is gone"


@pytest.mark.parametrize("change", ["reshape", "transpose", "integers"])
def test_another_shape_or_another_kind_of_number_is_unexplained(original: Path, tmp_path: Path, change: str) -> None:
    name = "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"

    def apply(tensors: Tensors) -> None:
        tensor = tensors[name]
        made = {"reshape": tensor.reshape(-1), "transpose": tensor.T, "integers": tensor.int()}
        tensors[name] = made[change]

    found = unexplained(original, changed(original, tmp_path / "c.safetensors", apply))
    assert list(found) == [name]
    assert " was " in found[name]["why"] or " were " in found[name]["why"]


def test_another_model_is_one_sentence(original: Path, tmp_path: Path) -> None:
    other = changed(original, tmp_path / "o.safetensors", lambda t: t.update({k: v + 1 for k, v in t.items()}))
    ran, report = verify(original, other)
    assert ran.code == 4
    assert report["different_models"]
    assert "are different models" in ran.err.splitlines()[0]
    assert len(ran.err.splitlines()) < 40


def test_a_model_of_another_architecture_is_one_sentence(original: Path, tmp_path: Path) -> None:
    ran, report = verify(original, plain(tmp_path / "xl.safetensors", "sdxl-base"))
    assert ran.code == 4
    assert report["different_models"]
    assert len(ran.err.splitlines()) < 40


def test_names_of_diffusers_beside_those_of_ldm_are_called_that(tmp_path: Path) -> None:
    source = plain(tmp_path / "ldm.safetensors", "vae")
    ran, report = verify(source, plain(tmp_path / "diffusers.safetensors", "diffusers-vae"))
    assert ran.code == 4
    assert report["other_naming"]
    assert not report["different_models"]
    assert "names its layers another way" in ran.err.splitlines()[0]
    assert len(ran.err.splitlines()) < 40
    assert not verify(source, source)[1]["other_naming"]


def test_a_tied_tensor_is_compared_with_the_one_that_the_metadata_name(tmp_path: Path) -> None:
    weight = torch.randn(4, 4)
    source = tmp_path / "tied.bin"
    torch.save({"lm.weight": weight, "embed.weight": weight, "other": torch.randn(3)}, source)
    alias = tmp_path / "alias.safetensors"
    assert ckptool("convert", source, alias, "--tied", "alias", "-q").code == 0
    assert [item["name"] for item in parity(source, alias)["dropped"]] == ["lm.weight"]
    other = {"embed.weight": weight, "other": load_file(alias)["other"]}
    torch.save({"lm.weight": weight + 1, **other}, source)
    found = unexplained(source, alias)
    assert list(found) == ["lm.weight"]
    save_file(other, alias, metadata={"lm.weight": "nothing"})
    assert list(unexplained(source, alias)) == ["lm.weight"]


def test_the_same_files_give_the_same_report(original: Path, tmp_path: Path) -> None:
    other = changed(original, tmp_path / "o.safetensors", lambda t: t.update({k: v + 1 for k, v in t.items()}))
    assert verify(original, other)[1] == verify(original, other)[1]


def void(_: object) -> None:
    """For a lambda that is a statement."""
