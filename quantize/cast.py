"""A plan with its tensors in a narrower format: the step of fp16, bf16 and fp8."""

from collections.abc import Callable
from dataclasses import replace
from math import prod
from struct import pack

from ckptool.convert.tied import identity
from ckptool.errors import Refused
from ckptool.identify.components import component_of
from ckptool.identify.identify import identify
from ckptool.identify.quantised import quantised
from ckptool.quantize.choose import Choice, Settings, choose, keeping
from ckptool.quantize.extremes import Extreme, extremes
from ckptool.quantize.formats import FORMATS
from ckptool.quantize.kernels import Kernel
from ckptool.quantize.tally import Tally
from ckptool.quantize.weights import is_linear, scale_name, scaled_prefix
from ckptool.reached import Reached, Step
from ckptool.tensor import Cast, Inline, Plan, Tensor
from ckptool.text import escape, plural

MODELS = frozenset({"checkpoint", "unet", "unknown"})
Measure = Callable[[Plan, Callable[[frozenset[str]], Step]], tuple[dict[str, float], Reached]]
"""Gives the tensors that must stay as they are, each with what its cast costs, and how far all other casts move the
model; of its step they are told what to leave as it is."""
MOVES = "the cast of its block moves the denoise step by "
SMALLEST_SCALE = float.fromhex("0x1p-126")


class Casting:
    """One run of a cast. When a value turned out not to fit, a second one with `careful` looks before it writes."""

    def __init__(self, settings: Settings, label: str, careful: bool = False, measure: Measure | None = None) -> None:
        """`measure` finds what has to stay as it is for the model to move no further than it may."""
        self.settings = settings
        self.label = label
        """The source's name, as errors show it."""
        self.careful = careful
        self.choices: list[Choice] = []
        """What was decided, when `step` has run."""
        self.kind = "unknown"
        self.measure = measure
        self.reached: Reached | None = None

    def step(self, plan: Plan) -> Plan:
        """Raises Refused for a quantised file, and under `--on-overflow fail` where values do not fit."""
        if reason := quantised(plan):
            raise Refused(f"{self.label}: is quantised already: {reason}", "cast the file that it was made from")
        self.kind = identify(plan).kind
        self.choices = choose(plan, self.settings, self.kind)
        scales = self.scales() if self.settings.scale else {}
        if self.careful:
            self.look(scales)
        if self.measure is not None:
            costs, self.reached = self.measure(plan, lambda wide: lambda plan: self.cast(plan, scales, wide))
            self.choices = keeping(self.choices, {name: moves(cost) for name, cost in costs.items()})
        return self.cast(plan, scales)

    def cast(self, plan: Plan, scales: dict[str, float], wide: frozenset[str] = frozenset()) -> Plan:
        """The plan as it was chosen, with `wide` left as they are too."""
        kernels: dict[object, Kernel] = {}
        choices = keeping(self.choices, dict.fromkeys(wide, ""))
        cast = {choice.tensor.name for choice in choices if choice.to}
        scales = {name: scale for name, scale in scales.items() if name in cast}
        tensors = [tensor_of(choice, self.settings, scales, kernels) for choice in choices]
        return replace(plan, tensors=(*tensors, *self.beside(plan, scales)))

    def scales(self) -> dict[str, float]:
        """The scale of each weight that has one: its largest value becomes the largest of the format."""
        for index, choice in enumerate(self.choices):
            if choice.to == self.settings.to and not self.is_scaled(choice) and self.is_diffusion(choice):
                to = "F16" if self.settings.rest == "f16" and choice.tensor.dtype in ("F32", "F64") else None
                self.choices[index] = replace(choice, to=to, reason="" if to else "ComfyUI reads no scale of it")
        weights = [choice.tensor for choice in self.choices if self.is_scaled(choice)]
        scaled_prefix(weights)
        into = FORMATS[self.settings.to]
        return {name: scale_of(extreme, into.maximum) for name, extreme in extremes(weights, into.limit).items()}

    def is_scaled(self, choice: Choice) -> bool:
        return choice.to == self.settings.to and self.is_diffusion(choice) and is_linear(choice.tensor)

    def is_diffusion(self, choice: Choice) -> bool:
        """Whether it is a part of a diffusion model itself: an adapter's tensors only change one."""
        return self.kind in MODELS and component_of(choice.tensor.name, self.kind) == "unet"

    def look(self, scales: dict[str, float]) -> None:
        """Find every tensor with values beyond the range, and keep it or refuse the file."""
        reasons: dict[str, str] = {}
        for to in dict.fromkeys(choice.to for choice in self.choices if choice.to):
            into = FORMATS[to]
            found = extremes([choice.tensor for choice in self.choices if choice.to == to], into.limit)
            for name, extreme in found.items():
                beyond = 0 if name in scales else extreme.beyond
                beyond += extreme.infinite if into.infinity is None else 0
                if beyond:
                    largest = "infinity" if extreme.largest < into.limit else f"{extreme.largest:.6g}"
                    reasons[name] = f"{plural(beyond, 'value')} beyond the range of {to}, the largest {largest}"
        if reasons and self.settings.on_overflow == "fail":
            name, reason = next(iter(reasons.items()))
            others = f" (and {plural(len(reasons) - 1, 'other tensor')})" if len(reasons) > 1 else ""
            raise Refused(
                f"{self.label}: tensor {escape(name)}: {reason}{others}",
                "--on-overflow keep leaves such tensors as they are, clamp writes the largest value there is",
            )
        self.choices = keeping(self.choices, reasons)
        for name in reasons:
            scales.pop(name, None)

    def beside(self, plan: Plan, scales: dict[str, float]) -> list[Tensor]:
        """The scales, and the marker by which ComfyUI knows that there are some."""
        if not scales:
            return []
        weights = [choice.tensor for choice in self.choices if choice.tensor.name in scales]
        to = self.settings.to
        # Two elements say that layers compute in full precision: how large activations get, nobody has measured.
        marker = Tensor(f"{scaled_prefix(weights)}scaled_fp8", to, (2,), Inline(bytes(2)))
        added = [Tensor(scale_name(w), "F32", (), Inline(pack("<f", scales[w.name]))) for w in weights]
        names = {tensor.name for tensor in plan.tensors}
        for tensor in (marker, *added):
            if tensor.name in names:
                raise Refused(
                    f"{self.label}: tensor {escape(tensor.name)}: is in the way of a scale", "leave --scale out"
                )
        return [marker, *added]


def moves(cost: float) -> str:
    return f"{MOVES}{cost:.2g}"


def scale_of(extreme: Extreme, maximum: float) -> float:
    """What a tensor is divided by, as it is stored in F32."""
    import numpy

    return max(float(numpy.float32(extreme.largest / maximum)), SMALLEST_SCALE) if extreme.largest else 1.0


def tensor_of(choice: Choice, settings: Settings, scales: dict[str, float], kernels: dict[object, Kernel]) -> Tensor:
    """The tensor as it is written; tied ones share a kernel, so that they are seen to be tied."""
    tensor, to = choice.tensor, choice.to
    if to is None:
        return tensor
    scale = scales.get(tensor.name, 1.0)
    key = (identity(tensor), to, scale)
    if key not in kernels:
        clamp = settings.on_overflow == "clamp"
        kernels[key] = Kernel(tensor.dtype, to, Tally(prod(tensor.shape)), clamp, scale)
    return Tensor(tensor.name, to, tensor.shape, Cast(tensor.data, tensor.dtype, to, kernels[key]))
