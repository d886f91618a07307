"""The reference denoise step: both files through the same networks, on the same seeded inputs."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from math import inf, nan, prod
from typing import TYPE_CHECKING, Any

from ckptool.address import Source
from ckptool.convert.read import read
from ckptool.identify.identify import identify
from ckptool.prune.svd import Unfit
from ckptool.tensor import Plan
from ckptool.verify.configs import Unknown
from ckptool.verify.metrics import Figures, figures
from ckptool.verify.networks import build
from ckptool.verify.probe import Probe, activations
from ckptool.verify.sides import Side, sides, unet_for_control
from ckptool.verify.steps import Inputs, Output

if TYPE_CHECKING:
    import torch

SMALL = 1 << 24
"""Parameters below which threads wait for each other longer than they compute."""

SHOWN = ("decode", "last")
"""Of a VAE and of a text encoder, the output that is drawn; of others it is what they end with."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be chosen; the same settings give the same figures."""

    steps: int = 4
    size: int = 32
    """Rows and columns of the latent."""
    seed: int = 0
    device: str = "cpu"
    base: Source | None = None
    """The checkpoint that an addon is applied to; without one, a seeded one of the right architecture."""


@dataclass(frozen=True, slots=True)
class Step:
    """One output of a component, held against the original's."""

    name: str
    """t=999 …, encode, decode, last, pooled …"""
    figures: Figures


@dataclass(frozen=True, slots=True, eq=False)
class ComponentResult:
    """What one component of the two files was found to do."""

    max_abs: float
    relative_l2: float
    psnr: float
    cosine: float
    steps: tuple[Step, ...] = ()
    blocks: tuple[tuple[str, float], ...] = ()
    """Block by block in the order that they run, at the first step: relative error."""
    activations: tuple[tuple[str, float], ...] = ()
    """Each layer by the original's name with its largest absolute value at F32, over all steps and both files."""
    original: Any = None
    """A numpy array: the denoised latent, the decoded picture, the encoded text."""
    candidate: Any = None
    skipped: str | None = None
    """Why it was not run; then the figures are NaN."""
    settings: tuple[tuple[str, str], ...] = ()
    """What had to be chosen for this component."""

    @property
    def parted(self) -> str | None:
        """The first block where the two are not equal."""
        return next((name for name, error in self.blocks if error), None)


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """What a run left."""

    outputs: tuple[Output, ...]
    blocks: "dict[str, torch.Tensor]"
    largest: dict[str, float]
    groups: int


Tell = Callable[[str], None]


def quietly(_: str) -> None:
    """Nobody watches the progress."""


def denoise(original: Plan, candidate: Plan, settings: Settings, tell: Tell = quietly) -> dict[str, ComponentResult]:
    """Every component that both files have; `tell` hears of each output as it is there.

    A component of an architecture that cannot be built is there too, skipped with the reason.
    """
    inputs = inputs_of(original, settings)
    with ExitStack() as stack:
        try:
            base = read(settings.base, stack) if settings.base is not None else None
            unet = unet_for_control(original, base)
            ours, theirs = (sides(plan, base, inputs.base, unet) for plan in (original, candidate))
        except Unknown as error:
            return {"other": not_run(str(error))}
        shared = [name for name in ours if name in theirs]
        return {name: compare(name, ours[name], theirs[name], inputs, tell) for name in shared}


def not_run(reason: str) -> ComponentResult:
    return ComponentResult(nan, nan, nan, nan, skipped=reason)


def inputs_of(plan: Plan, settings: Settings) -> Inputs:
    identity = identify(plan)
    prediction = identity.prediction.type or "epsilon"
    return Inputs(settings.steps, settings.size, settings.seed, settings.device, prediction, identity.base)


def compare(component: str, ours: Side, theirs: Side, inputs: Inputs, tell: Tell = quietly) -> ComponentResult:
    """Run the original, then the candidate, one network in memory at a time."""
    try:
        first = run(component, ours, inputs, tell)
    except Unknown as error:
        return not_run(f"the original: {error}")
    try:
        second = run(component, theirs, inputs, tell)
    except Unknown as error:
        return ComponentResult(inf, inf, -inf, 0.0, skipped=f"the candidate: {error}")
    return held(first, second, ours, inputs)


def run(component: str, side: Side, inputs: Inputs, tell: Tell = quietly) -> Trace:
    """All outputs of a component. Raises Unknown."""
    import torch

    def outputs() -> Iterator[Output]:
        for output in side.run(network, inputs):
            yield replace(output, values=output.values.detach().float().cpu())
            tell(component)

    small = sum(prod(weight.shape) for weight in side.weights.values()) < SMALL
    with torch.inference_mode(), exactly(1 if small else torch.get_num_threads()):
        network = build(component, side.weights, inputs.device)
        if side.prepare:
            side.prepare(network)
        probe = Probe(network)
        try:
            made = tuple(outputs())
        except Unfit as error:
            raise Unknown(str(error)) from error
        except RuntimeError as error:
            raise Unknown(f"it cannot run: {str(error)[:200]}") from error
        network.maps.check_unchanged()
        return Trace(made, probe.blocks, probe.largest, network.config.groups)


@contextmanager
def exactly(threads: int) -> Iterator[None]:
    """F32 as it is written, the same at every run: no TF32, no choice of kernels by their speed."""
    import torch

    deep: Any = torch.backends.cudnn
    pool = torch.get_num_threads()
    before = (torch.get_float32_matmul_precision(), deep.allow_tf32, deep.benchmark, deep.deterministic)
    torch.set_float32_matmul_precision("highest")
    deep.allow_tf32, deep.benchmark, deep.deterministic = False, False, True
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(pool)
        torch.set_float32_matmul_precision(before[0])
        deep.allow_tf32, deep.benchmark, deep.deterministic = before[1:]


def held(first: Trace, second: Trace, side: Side, inputs: Inputs) -> ComponentResult:
    """The candidate's run against the original's."""
    pairs = list(zip(first.outputs, second.outputs, strict=True))
    whole = apart(first, second)
    largest = {
        name: max(value, second.largest.get(name, 0.0)) for name, value in {**second.largest, **first.largest}.items()
    }
    one, two = next(((a, b) for a, b in pairs if a.name in SHOWN), pairs[-1])
    return ComponentResult(
        whole.max_abs,
        whole.relative_l2,
        whole.psnr,
        whole.cosine,
        tuple(Step(a.name, figures([(a.values, b.values)])) for a, b in pairs),
        tuple((name, block_error(first.blocks[name], second.blocks.get(name))) for name in first.blocks),
        activations(largest, side.weights),
        one.values.numpy(),
        two.values.numpy(),
        settings=(("prediction", inputs.prediction), ("norm groups", str(first.groups)), *side.notes),
    )


def apart(first: Trace, second: Trace) -> Figures:
    """All outputs taken together, but for the last latent: that is what the predictions made, and none itself."""
    pairs = zip(first.outputs, second.outputs, strict=True)
    return figures((a.values, b.values) for a, b in pairs if a.name != "latent")


def block_error(one: "torch.Tensor", two: "torch.Tensor | None") -> float:
    return inf if two is None or one.shape != two.shape else figures([(one, two)]).relative_l2
