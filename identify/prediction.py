"""What a network was trained to predict, by the strongest evidence that there is."""

import math
import re

from ckptool.identify.families import UNETS, title
from ckptool.identify.identity import AMBIGUOUS, Prediction
from ckptool.identify.names import shown
from ckptool.identify.sample import finite, numbers_of
from ckptool.tensor import Plan, Tensor
from ckptool.text import escape

# How metadata and schedulers write it.
WORDS: dict[str, str] = {
    "epsilon": "epsilon", "eps": "epsilon", "v": "v", "v_prediction": "v", "v-prediction": "v", "vpred": "v",
    "edm": "edm",
}  # fmt: skip
PREDICTION = "modelspec.prediction_type"
PARAMETERIZATION = "ss_v_parameterization"
LINE = re.compile(
    r"""^[ \t]{0,64}parameterization[ \t]{0,8}:[ \t]{0,8}["']?(\w{1,16})["']?[ \t\r]{0,64}$""", re.MULTILINE
)

LIMIT = 0.09
"""SD2: the norm of the last self-attention deviates by more in models that predict v."""
BIASES = (
    "output_blocks.11.1.transformer_blocks.0.norm1.bias",
    "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias",
)
MAX_VALUES = 4096
FLOATS = ("F64", "F32", "F16", "BF16")

# The variants of SD2 that were published with another training than its base.
PUBLISHED: dict[str, str] = {
    "inpainting": "epsilon",
    "depth": "epsilon",
    "upscaler": "v",
    "instruct-pix2pix": "epsilon",
}


def markers_of(plan: Plan) -> dict[str, Tensor]:
    """The names whose presence says something, wherever they stand and however empty the tensors are."""
    found: dict[str, Tensor] = {}
    for tensor in plan.tensors:
        last = tensor.name[-24:].rpartition(".")[2]
        if last in ("v_pred", "ztsnr", "edm_mean", "edm_std"):
            found.setdefault(last, tensor)
        elif last == "sigma_max" and ("." + tensor.name).endswith(".edm_vpred.sigma_max"):
            found.setdefault("edm_vpred.sigma_max", tensor)
    return found


def stated(plan: Plan) -> Prediction | None:
    """What the metadata say."""
    text = plan.metadata.get(PREDICTION)
    if text is not None:
        kind = WORDS.get(text.strip().lower())
        if kind:
            return Prediction(kind, f"metadata {PREDICTION}: {escape(text, 40)}")
    flag = plan.metadata.get(PARAMETERIZATION, "").strip().lower()
    if flag in ("true", "1"):
        return Prediction("v", f"metadata {PARAMETERIZATION}: {flag}")
    if flag in ("false", "0"):
        return Prediction("epsilon", f"metadata {PARAMETERIZATION}: {flag}")
    return None


def marked(markers: dict[str, Tensor]) -> Prediction | None:
    """What marker names say; zero terminal SNR goes with either type."""
    zero = "; ztsnr: trained to zero terminal SNR" if "ztsnr" in markers else ""
    if "v_pred" in markers:
        return Prediction("v", f"the key {shown(markers['v_pred'])}{zero}")
    if "edm_mean" in markers and "edm_std" in markers:
        return Prediction("edm", f"the keys {shown(markers['edm_mean'])} and {shown(markers['edm_std'])}")
    if "edm_vpred.sigma_max" in markers:
        return Prediction("v", f"the key {shown(markers['edm_vpred.sigma_max'])}: v on the noise levels of EDM")
    return None


def beside(sidecar: bytes | None) -> Prediction | None:
    """What a `<stem>.yaml` says, which A1111 would follow."""
    if sidecar is None:
        return None
    found = LINE.search(sidecar.decode("utf-8", "replace"))
    kind = WORDS.get(found[1].lower()) if found else None
    return Prediction(kind, f"the sidecar says parameterization: {found[1]}") if kind and found else None


def prediction_of(
    plan: Plan, kind: str, base: str | None, variant: str | None, sidecar: bytes | None, scheduler: str | None
) -> Prediction:
    """The prediction type of a model of this identity; `scheduler` is what a diffusers folder says."""
    said = stated(plan)
    if kind not in ("checkpoint", "unet"):
        return said or Prediction(None, "asked of whole networks only")
    markers = markers_of(plan)
    found = said or marked(markers) or beside(sidecar) or scheduled(scheduler)
    if found:
        return found
    zero = "; ztsnr: trained to zero terminal SNR" if "ztsnr" in markers else ""
    if base == AMBIGUOUS or base is None:
        return Prediction(None, f"nothing says it, and the base is not known{zero}")
    if base == "svd":
        return Prediction("v", "assumed: Stable Video Diffusion was published so")
    if base not in UNETS:
        return Prediction(None, f"{title(base)} follows a flow: the question is for diffusion models")
    if base == "sd2":
        return second(plan, variant, zero)
    return Prediction("epsilon", f"assumed: {title(base)} was published so, and nothing says otherwise{zero}")


def scheduled(scheduler: str | None) -> Prediction | None:
    kind = WORDS.get(scheduler.strip().lower()) if scheduler else None
    return Prediction(kind, f"the folder's scheduler: {escape(scheduler or '', 40)}") if kind else None


def second(plan: Plan, variant: str | None, zero: str) -> Prediction:
    """SD2 was published in both kinds; where it starts from noise alone, one norm's bias tells them apart."""
    if variant in PUBLISHED:
        return Prediction(PUBLISHED[variant], f"assumed: SD2 {variant} was published so{zero}")
    tensor = next((t for t in plan.tensors if t.name.endswith(BIASES) and not t.name.startswith("control")), None)
    numbers = numbers_of(tensor, MAX_VALUES) if tensor and tensor.dtype in FLOATS else None
    if tensor is None or not numbers or not finite(numbers):
        return Prediction(
            None, f"SD2 is published in both kinds, and the norm that tells them apart is not there{zero}"
        )
    mean = math.fsum(numbers) / len(numbers)
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / max(len(numbers) - 1, 1))
    kind = "v" if deviation > LIMIT else "epsilon"
    sign = ">" if kind == "v" else "≤"
    return Prediction(kind, f"{shown(tensor)}: standard deviation {deviation:.3g} {sign} {LIMIT}{zero}")
