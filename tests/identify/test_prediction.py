"""What a network predicts is told by the strongest evidence that there is, and an assumption is called one."""

from collections.abc import Callable
from dataclasses import replace
from struct import pack

import pytest

from ckptool.identify.identify import Folder, identify
from ckptool.identify.prediction import BIASES
from ckptool.tensor import Inline, Plan, Tensor
from fixtures.manifests import Manifest
from tests.identify.knowing import known, load, plan_of

V: Manifest = {"v_pred": ("F32", (0,))}
EDM: Manifest = {"edm_mean": ("F32", (1, 4, 1, 1)), "edm_std": ("F32", (1, 4, 1, 1))}
P = "model.diffusion_model."
YAML = b'model:\n  target: ldm.Model\n  params:\n    parameterization: "v"\n    linear_start: 0.00085\n'


def with_norm(plan: Plan, values: list[float], dtype: str = "F32") -> Plan:
    """A plan whose telling norm has these values, again and again."""

    def filled(tensor: Tensor) -> Tensor:
        if not tensor.name.endswith(BIASES):
            return tensor
        numbers = (values * tensor.shape[0])[: tensor.shape[0]]
        return replace(tensor, dtype=dtype, data=Inline(b"".join(map(FORMS[dtype], numbers))))

    return replace(plan, tensors=tuple(map(filled, plan.tensors)))


FORMS: dict[str, Callable[[float], bytes]] = {
    "F64": lambda number: pack("<d", number),
    "F32": lambda number: pack("<f", number),
    "F16": lambda number: pack("<e", number),
    "BF16": lambda number: pack("<f", number)[2:],
}


@pytest.mark.parametrize(("name", "factor"), [("sd2.1-v", 1), ("sd2.1-v", 16), ("diffusers-unet-sd2", 8)])
@pytest.mark.parametrize("dtype", FORMS)
def test_sd2_is_told_by_the_spread_of_one_norm(name: str, factor: int, dtype: str) -> None:
    wide, tight = (identify(with_norm(plan_of(load(name, factor)), v, dtype)) for v in ([0.1, -0.1], [0.08, -0.08]))
    assert (wide.prediction.type, tight.prediction.type) == ("v", "epsilon")
    assert "norm1.bias" in wide.prediction.evidence
    assert "> 0.09" in wide.prediction.evidence


@pytest.mark.parametrize("values", [[float("nan")], [float("inf")], [3e38, -3e38]])
def test_a_norm_that_is_no_number_tells_nothing(values: list[float]) -> None:
    assert identify(with_norm(plan_of(load("sd2.1-v", 16)), values)).prediction.type is None


def test_sd2_without_the_norm_is_not_assumed() -> None:
    left = {name: d for name, d in load("sd2.1-v").items() if not name.endswith(BIASES)}
    assert known(left).prediction.type is None


def test_sd2_inpainting_is_not_told_by_the_norm() -> None:
    found = identify(with_norm(plan_of(load("sd2-inpainting")), [0.5, -0.5])).prediction
    assert (found.type, "assumed" in found.evidence) == ("epsilon", True)


@pytest.mark.parametrize("name", ["sd1", "sdxl-base", "sdxl-refiner"])
def test_epsilon_is_assumed_and_said_to_be(name: str) -> None:
    found = known(load(name)).prediction
    assert (found.type, "assumed" in found.evidence) == ("epsilon", True)


@pytest.mark.parametrize("prefix", ["", "model.", P, "model.diffusion_model.inner."])
@pytest.mark.parametrize("name", ["sd1", "sdxl-base"])
def test_the_presence_of_an_empty_marker_is_the_information(name: str, prefix: str) -> None:
    marker: Manifest = {f"{prefix}v_pred": ("F32", (0,)), f"{prefix}ztsnr": ("F32", (0,))}
    found = known(load(name) | marker)
    assert found.prediction.type == "v"
    assert f"{prefix}v_pred [0]" in found.prediction.evidence
    assert "zero terminal SNR" in found.prediction.evidence
    assert found.kind == "checkpoint"


def test_zero_terminal_snr_alone_says_no_type() -> None:
    found = known(load("sdxl-base") | {"ztsnr": ("F32", (0,))}).prediction
    assert (found.type, "zero terminal SNR" in found.evidence) == ("epsilon", True)


def test_a_marker_at_the_top_of_wrapped_names_is_seen() -> None:
    wrapped: Manifest = {f"module.{name}": d for name, d in load("sdxl-base").items()}
    found = known(wrapped | V)
    assert (found.kind, found.base, found.prediction.type) == ("checkpoint", "sdxl", "v")


def test_metadata_come_before_markers_and_markers_before_the_sidecar() -> None:
    xl = load("sdxl-base")
    assert known(xl | V, {"modelspec.prediction_type": "epsilon"}).prediction.type == "epsilon"
    assert known(xl | EDM, {"ss_v_parameterization": "True"}).prediction.type == "v"
    assert identify(plan_of(xl | EDM), YAML).prediction.type == "edm"
    assert identify(plan_of(xl), YAML).prediction.type == "v"
    assert identify(with_norm(plan_of(load("sd2-eps")), [0.01]), YAML).prediction.type == "v"


@pytest.mark.parametrize("text", ["nonsense", "", "V" * 10_000, "\x1b[31m"])
def test_metadata_that_mean_nothing_are_passed_over(text: str) -> None:
    found = known(load("sdxl-base") | V, {"modelspec.prediction_type": text}).prediction
    assert (found.type, "v_pred" in found.evidence) == ("v", True)


@pytest.mark.parametrize(
    "sidecar", [b"parameterization: eps", b"  parameterization: 'v'\r\n", b'parameterization: "v"  ']
)
def test_sidecars_are_read_line_by_line(sidecar: bytes) -> None:
    found = identify(plan_of(load("sdxl-base")), sidecar).prediction
    assert found.type == ("epsilon" if b"eps" in sidecar else "v")
    assert "sidecar" in found.evidence


@pytest.mark.parametrize(
    "sidecar", [b"# parameterization: v", b"xparameterization: v", b"\xff\xfe", b" " * 100_000, b""]
)
def test_sidecars_that_say_nothing_are_passed_over(sidecar: bytes) -> None:
    assert "assumed" in identify(plan_of(load("sdxl-base")), sidecar).prediction.evidence


def test_the_scheduler_of_a_folder_is_asked() -> None:
    plan = plan_of(load("sdxl-base"))
    assert identify(plan, None, Folder(scheduler="v_prediction")).prediction.type == "v"
    assert identify(plan, None, Folder(scheduler="epsilon")).prediction.evidence.startswith("the folder's scheduler")


def test_flows_are_not_asked_what_they_predict() -> None:
    found = known({"double_blocks.0.img_attn.norm.key_norm.scale": ("F16", (128,))}).prediction
    assert (found.type, "flow" in found.evidence) == (None, True)


def test_adapters_predict_what_their_metadata_say_and_nothing_else() -> None:
    lora = load("lora-kohya-sd2")
    assert known(lora).prediction.type is None
    assert known(lora, {"ss_v_parameterization": "True"}).prediction.type == "v"
