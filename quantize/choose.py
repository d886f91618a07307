"""Which tensors a cast takes, into what, and why the others are left as they are."""

from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from math import prod

from ckptool.convert.numbers import values
from ckptool.convert.sums import base_of
from ckptool.errors import UsageError
from ckptool.identify.components import component_of
from ckptool.quantize.formats import SOURCES
from ckptool.quantize.weights import is_weight
from ckptool.tensor import BITS, Inline, Plan, Tensor
from ckptool.text import escape


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the command line asks for."""

    to: str
    """F16, BF16, F8_E4M3 or F8_E5M2."""
    on_overflow: str = "keep"
    """keep, clamp or fail."""
    keep: tuple[str, ...] = ()
    """Globs of names."""
    vae: str = "cast"
    """cast, keep, or (for FP8) rest."""
    text_encoder: str = "cast"
    """The same, or auto: cast where the file is nothing else, and otherwise rest."""
    rest: str = "f16"
    """What becomes of the tensors that FP8 is not for: f16 or keep."""
    scale: bool = False
    """Whether each FP8 weight is written divided by a scale of its own."""

    @property
    def fp8(self) -> bool:
        return BITS[self.to] == 8


@dataclass(frozen=True, slots=True)
class Choice:
    """What becomes of one tensor."""

    tensor: Tensor
    to: str | None = None
    """None: it is left as it is."""
    reason: str = ""
    """Why it is left as it is; empty for what is no wider than the target anyway."""


# Names (the last part) of what a cast would break, whatever the model.
LAST: dict[str, str] = {
    "position_ids": "position ids: rounding would change which positions they mean",
    "decay": "counter of the EMA: 0.9999 would become 1.0",
    "num_updates": "counter of the EMA",
    "logit_scale": "a single number that everything is multiplied by",
    "inv_freq": "frequencies, computed in F32",
} | dict.fromkeys(
    ("betas", "alphas_cumprod", "alphas_cumprod_prev", "logvar", "lvlb_weights", "sigmas", "scale_factor"),
    "schedule buffer",
) | dict.fromkeys(
    ("v_pred", "ztsnr", "edm_mean", "edm_std", "sigma_max", "sigma_min", "sigma_data"),
    "says what the model was trained to predict",
)  # fmt: skip
SCHEDULE = ("posterior_", "sqrt_", "log_")
"""How the other names of a schedule begin."""


MOST_INFLATED = 1 << 16
"""Bytes that are inflated for the sake of one number."""


def choose(plan: Plan, settings: Settings, kind: str) -> list[Choice]:
    """What becomes of each tensor. Raises UsageError when a glob matches none of them."""
    for glob in settings.keep:
        if not any(fnmatchcase(tensor.name, glob) for tensor in plan.tensors):
            raise UsageError(
                f"--keep-fp32 {escape(glob)}: no tensor has such a name", "`ckptool convert --dry-run -v` lists them"
            )
    return [choice(tensor, settings, kind) for tensor in plan.tensors]


def choice(tensor: Tensor, settings: Settings, kind: str) -> Choice:
    to: str | None = settings.to
    part = component_of(tensor.name, kind)
    wish = {"vae": settings.vae, "text_encoder": settings.text_encoder, "text_encoder_2": settings.text_encoder}.get(
        part, "cast"
    )
    if wish == "auto":
        wish = "cast" if kind == "text-encoder" else "rest"
    if settings.fp8 and (wish == "rest" or not is_weight(tensor)):
        to = "F16" if settings.rest == "f16" else None
    if BITS[tensor.dtype] <= BITS[to or settings.to]:
        return Choice(tensor)
    if reason := unfit(tensor):
        return Choice(tensor, reason=reason)
    if any(fnmatchcase(tensor.name, glob) for glob in settings.keep):
        return Choice(tensor, reason="--keep-fp32")
    if wish == "keep":
        return Choice(tensor, reason=f"--{'vae' if part == 'vae' else 'text-encoder'} keep")
    if to is None:
        return Choice(tensor, reason="--rest keep")
    if tensor.name.rpartition(".")[2] == "alpha" and not is_exact(tensor, to):
        return Choice(tensor, reason=f"alpha: its value has no exact {to}")
    return Choice(tensor, to)


def unfit(tensor: Tensor) -> str:
    """Why a cast would break a tensor; empty when it would not."""
    if tensor.dtype not in SOURCES:
        return "complex numbers" if tensor.dtype == "C64" else "integers" if tensor.dtype[0] in "IU" else "no numbers"
    last = tensor.name.rpartition(".")[2]
    if last.startswith(SCHEDULE) and len(tensor.shape) < 2:
        return "schedule buffer"
    return LAST.get(last, "")


def is_exact(tensor: Tensor, to: str) -> bool:
    """Whether a single number stays what it is."""
    import numpy

    from ckptool.quantize.kernels import Kernel
    from ckptool.quantize.tally import Tally

    if prod(tensor.shape) != 1:
        return True
    base = base_of(tensor.data)
    if not isinstance(base, Inline) and base.record.packed is not None and base.record.size > MOST_INFLATED:
        return False
    number = numpy.ascontiguousarray(values(tensor)).reshape(1)
    dtype = "F64" if tensor.dtype == "F64" else "F32"
    tally = Tally(1)
    codes = bytearray(BITS[to] // 8)
    Kernel(dtype, to, tally, clamp=True)(memoryview(number.tobytes()), memoryview(codes))
    total = tally.total()
    return total.max_error == 0 and not total.overflowed


def keeping(choices: list[Choice], reasons: dict[str, str]) -> list[Choice]:
    """The same, with the tensors of `reasons` left as they are."""
    return [
        replace(choice, to=None, reason=reasons[choice.tensor.name])
        if choice.to and choice.tensor.name in reasons
        else choice
        for choice in choices
    ]
