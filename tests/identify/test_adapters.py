"""Modules of adapters: every naming and every algorithm, by names and shapes alone."""

from collections import Counter

import pytest

from ckptool.identify.adapters import Adapter, AdapterModule, group
from ckptool.tensor import Inline, Tensor
from fixtures import manifests

Shapes = dict[str, tuple[int, ...]]


def adapter(shapes: Shapes) -> Adapter:
    return group(Tensor(name, "F16", shape, Inline(b"")) for name, shape in shapes.items())


def only(shapes: Shapes) -> AdapterModule:
    """The one module that these tensors make, none of them left over."""
    found = adapter(shapes)
    assert not found.rest
    (module,) = found.modules.values()
    return module


def from_manifest(name: str) -> Adapter:
    tensors = manifests.load(name).items()
    return group(Tensor(key, dtype, shape, Inline(b"")) for key, (dtype, shape) in tensors)


@pytest.mark.parametrize(
    ("manifest", "algorithms"),
    [
        ("lora-kohya-sd1", {("lora", 32): 264}),
        ("lora-kohya-sd2", {("lora", 32): 330}),
        ("lora-kohya-sdxl", {("lora", 32): 986}),
        ("locon-kohya-sd1", {("lora", 32): 300, ("locon", 8): 50}),
        ("lycoris-locon-dora-sd1", {("dora", 16): 302, ("dora", 8): 52}),
        ("lycoris-loha-sd1", {("loha", 16): 302, ("loha", 8): 52}),
        ("lycoris-lokr-sd1", {("lokr", 16): 302, ("lokr", 8): 52}),
    ],
)
def test_every_tensor_of_a_real_adapter_belongs_to_a_module(
    manifest: str, algorithms: dict[tuple[str, int], int]
) -> None:
    found = from_manifest(manifest)
    assert not found.rest
    assert Counter((module.algorithm, module.rank) for module in found.modules.values()) == algorithms
    assert all(module.shape for module in found.modules.values())


@pytest.mark.parametrize("manifest", [name for name in manifests.names() if not name.startswith(("lo", "lyco"))])
def test_no_other_kind_of_file_has_modules(manifest: str) -> None:
    found = from_manifest(manifest)
    assert not found.modules
    assert len(found.rest) == len(manifests.load(manifest))


@pytest.mark.parametrize(
    ("down", "up", "layer", "naming"),
    [
        ("lora_unet_a_to_q.lora_down.weight", "lora_unet_a_to_q.lora_up.weight", "lora_unet_a_to_q", "kohya"),
        ("unet.a.to_q.lora_A.weight", "unet.a.to_q.lora_B.weight", "unet.a.to_q", "peft"),
        ("transformer.a.lora_A.weight", "transformer.a.lora_B.weight", "transformer.a", "peft"),
        ("base_model.model.a.q.lora_A.default.weight", "base_model.model.a.q.lora_B.default.weight",
         "base_model.model.a.q", "peft"),
        ("a.q.lora_A", "a.q.lora_B", "a.q", "peft"),
        ("a.emb.lora_embedding_A", "a.emb.lora_embedding_B", "a.emb", "peft"),
        ("a.emb.lora_embedding_A.style", "a.emb.lora_embedding_B.style", "a.emb", "peft"),
        ("unet.attn1.processor.to_q_lora.down.weight", "unet.attn1.processor.to_q_lora.up.weight",
         "unet.attn1.processor.to_q", "diffusers"),
        ("double_blocks.0.processor.proj_lora1.down.weight", "double_blocks.0.processor.proj_lora1.up.weight",
         "double_blocks.0.processor.proj_lora1", "diffusers"),
        ("text_encoder.q_proj.lora_linear_layer.down.weight", "text_encoder.q_proj.lora_linear_layer.up.weight",
         "text_encoder.q_proj", "diffusers"),
        ("unet.a.to_q.lora.down.weight", "unet.a.to_q.lora.up.weight", "unet.a.to_q", "diffusers"),
    ],
)  # fmt: skip
def test_every_naming_of_down_and_up_is_known(down: str, up: str, layer: str, naming: str) -> None:
    module = only({down: (4, 32), up: (16, 4)})
    assert (module.layer, module.naming, module.algorithm) == (layer, naming, "lora")
    assert (module.shape, module.rank) == ((16, 32), 4)
    assert module.parts["down"].name == down
    assert module.parts["up"].name == up


@pytest.mark.parametrize("before", ["", "lora.", "lora_linear_layer."])
def test_alpha_belongs_to_its_layer(before: str) -> None:
    endings = {"down.weight": (4, 32), "up.weight": (16, 4)}
    shapes = {f"unet.a.{before or 'lora.'}{ending}": shape for ending, shape in endings.items()}
    assert set(only(shapes | {f"unet.a.{before}alpha": ()}).parts) == {"down", "up", "alpha"}


@pytest.mark.parametrize(
    ("algorithm", "parts", "shape", "rank"),
    [
        ("locon", {"lora_down.weight": (4, 32, 3, 3), "lora_up.weight": (16, 4, 1, 1)}, (16, 32, 3, 3), 4),
        ("lora", {"lora_down.weight": (4, 32, 1, 1), "lora_up.weight": (16, 4, 1, 1)}, (16, 32, 1, 1), 4),
        ("locon", {"lora_down.weight": (4, 32, 1, 1), "lora_up.weight": (16, 4, 1, 1), "lora_mid.weight": (4, 4, 3, 3)},
         (16, 32, 3, 3), 4),
        ("dora", {"lora_down.weight": (4, 32), "lora_up.weight": (16, 4), "dora_scale": (16, 1)}, (16, 32), 4),
        ("dora", {"lora_A.weight": (4, 32), "lora_B.weight": (16, 4), "lora_magnitude_vector": (16,)}, (16, 32), 4),
        ("loha", {"hada_w1_a": (16, 4), "hada_w1_b": (4, 32), "hada_w2_a": (16, 4), "hada_w2_b": (4, 32)}, (16, 32), 4),
        ("loha", {"hada_w1_a": (4, 16), "hada_w1_b": (4, 32), "hada_w2_a": (4, 16), "hada_w2_b": (4, 32),
                  "hada_t1": (4, 4, 3, 3), "hada_t2": (4, 4, 3, 3)}, (16, 32, 3, 3), 4),
        ("lokr", {"lokr_w1": (2, 4), "lokr_w2": (8, 8)}, (16, 32), None),
        ("lokr", {"lokr_w1": (2, 4), "lokr_w2": (8, 8, 3, 3)}, (16, 32, 3, 3), None),
        ("lokr", {"lokr_w1_a": (2, 1), "lokr_w1_b": (1, 4), "lokr_w2_a": (8, 3), "lokr_w2_b": (3, 8)}, (16, 32), 3),
        ("lokr", {"lokr_w1": (2, 4), "lokr_w2_a": (3, 8), "lokr_w2_b": (3, 8), "lokr_t2": (3, 3, 3, 3)},
         (16, 32, 3, 3), 3),
        ("full", {"diff": (16, 32, 3, 3), "diff_b": (16,)}, (16, 32, 3, 3), None),
        ("norm", {"w_norm": (16,), "b_norm": (16,)}, None, None),
        ("ia3", {"weight": (16,), "on_input": ()}, None, None),
        ("glora", {"a1.weight": (32, 4), "a2.weight": (4, 16), "b1.weight": (16, 4), "b2.weight": (4, 32)}, None, None),
        ("oft", {"oft_blocks": (4, 4, 4)}, None, None),
        ("boft", {"oft_blocks": (3, 4, 4, 4), "rescale": (16, 1)}, None, None),
        ("oft", {"oft_diag": (4, 4, 4)}, None, None),
    ],
)  # fmt: skip
def test_every_algorithm_is_told_by_its_parts(
    algorithm: str, parts: Shapes, shape: tuple[int, ...] | None, rank: int | None
) -> None:
    module = only({f"lora_unet_x.{ending}": size for ending, size in {**parts, "alpha": ()}.items()})
    assert (module.algorithm, module.shape, module.rank) == (algorithm, shape, rank)


@pytest.mark.parametrize(
    "shapes",
    [
        {"x.lora_down.weight": (4, 32), "x.lora_up.weight": (16, 5)},
        {"x.lora_down.weight": (4,), "x.lora_up.weight": (16, 4)},
        {"x.lora_down.weight": (), "x.lora_up.weight": ()},
        {"x.lora_down.weight": (4, 32), "x.lora_up.weight": (16, 4, 3, 3)},
        {"x.lora_down.weight": (4, 32), "x.lora_up.weight": (16, 4), "x.lora_mid.weight": (4, 5, 3, 3)},
        {"x.hada_w1_a": (16, 4), "x.hada_w1_b": (4, 32), "x.hada_w2_a": (16, 4), "x.hada_w2_b": (4, 31)},
        {"x.lokr_w1": (2,), "x.lokr_w2": (8, 8)},
        {"x.lokr_w1": (2, 4), "x.lokr_w2": ()},
        {"x.diff": (16,)},
    ],
)
def test_parts_that_do_not_fit_have_no_shape(shapes: Shapes) -> None:
    assert only(shapes).shape is None


def test_a_part_that_is_there_twice_makes_a_module_unknown() -> None:
    module = only({"x.lora_down.weight": (4, 32), "x.lora_up.weight": (16, 4), "x.lora_A.weight": (4, 32)})
    assert module.algorithm == "unknown"
    assert set(module.parts) == {"down", "up", "x.lora_A.weight"}


def test_two_algorithms_in_one_module_make_it_unknown() -> None:
    assert only({"x.lora_down.weight": (4, 32), "x.lora_up.weight": (16, 4), "x.diff": (16, 32)}).algorithm == "unknown"


def test_half_a_module_is_unknown() -> None:
    assert only({"x.lora_down.weight": (4, 32), "x.alpha": ()}).algorithm == "unknown"


def test_adapters_of_one_layer_are_apart() -> None:
    shapes = {f"x.lora_{side}.{name}.weight": (4, 4) for side in "AB" for name in ("default", "style")}
    found = adapter(shapes)
    assert [(module.name, module.layer) for module in found.modules.values()] == [
        ("x[default]", "x"), ("x[style]", "x"),
    ]  # fmt: skip


def test_what_belongs_to_no_module_is_listed() -> None:
    found = adapter(
        {
            "emb_params": (1, 768), "y.alpha": (), "y.weight": (3,), "lora_down.weight": (4, 4), "alpha": (),
            "x.lora_down.weight": (4, 32), "x.lora_up.weight": (16, 4),
        }
    )  # fmt: skip
    assert list(found.modules) == ["x"]
    assert {tensor.name for tensor in found.rest} == {"emb_params", "y.alpha", "y.weight", "lora_down.weight", "alpha"}


def test_names_of_any_length_cost_no_more_than_their_length() -> None:
    name = "." * 1_000_000 + "lora_down.weight"
    assert only({name: (4, 32)}).layer == "." * 999_999
