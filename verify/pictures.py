"""Outputs of both files as pictures: before, after, and the difference made visible."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptool.output import Output, exists, write_at
from ckptool.verify.ldm_extra import COMPONENTS
from ckptool.verify.png import png

if TYPE_CHECKING:
    from ckptool.verify.denoise import ComponentResult

SIDES = ("original", "candidate", "difference")
SEEN = (0.5, 6.0)
"""A picture is from -1 to 1; where its values span less than this or more, it is drawn by what they are."""
TAILS = (1, 99)
"""Per cent: what is below and above is black and white where numbers are drawn that are no picture."""
MOST = 1e9
"""A difference that is still black after so much amplification is rounding, and of no interest."""
LATENT = 4
# What red, green and blue are of each channel of a latent, about: linear fits that the community uses as previews.
FACTORS: dict[str, tuple[tuple[float, float, float], ...]] = {
    "sd": ((0.298, 0.207, 0.208), (0.187, 0.286, 0.173), (-0.158, 0.189, 0.264), (-0.184, -0.271, -0.473)),
    "sdxl": (
        (0.3920, 0.4054, 0.4549), (-0.2634, -0.0196, 0.0653), (0.0568, 0.1687, -0.0755), (-0.3112, -0.2359, -0.2076),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """One component's outputs, drawn on the scale of the original."""

    original: bytes
    candidate: bytes
    difference: bytes
    label: str
    """What is seen, and whether it is a picture at all."""
    low: float
    """Drawn black, with what is lower."""
    high: float
    factor: float | None
    """What the difference is multiplied by; None where nothing differs, and it is black."""
    broken: int
    """Values of the candidate that are infinite or NaN."""

    @property
    def amplified(self) -> str:
        """In words, what the difference shows."""
        if self.factor is None:
            return "no difference: black"
        return f"difference × {self.factor:,.0f}" if self.factor > 1 else "difference"


def drawn(original: Any, candidate: Any, label: str, is_picture: bool) -> Pictures:
    """Of planes [rows, columns, 1 or 3] of one shape; a picture has its black at -1 and its white at 1."""
    import numpy

    before, after = original.astype("<f8"), candidate.astype("<f8")
    low, high = scale(before, is_picture)
    span = high - low
    with numpy.errstate(all="ignore"):
        apart = numpy.abs(after - before)
        apart[(before == after) | (numpy.isnan(before) & numpy.isnan(after))] = 0.0
    finite = apart[numpy.isfinite(apart)]
    factor = amplification(span, float(finite.max(initial=0)), bool(len(finite) < apart.size))
    shares = numpy.where(numpy.isfinite(apart), apart * (factor or 1.0) / span, 1.0)
    broken = int(after.size - numpy.count_nonzero(numpy.isfinite(after)))
    one, two = (png((numpy.nan_to_num(side, nan=low, posinf=low, neginf=low) - low) / span) for side in (before, after))
    return Pictures(one, two, png(shares), label, low, high, factor, broken)


def scale(before: Any, is_picture: bool) -> tuple[float, float]:
    """What black and white stand for."""
    import numpy

    finite = before[numpy.isfinite(before)]
    if not finite.size:
        return -1.0, 1.0
    low, high = (float(value) for value in numpy.percentile(finite, TAILS))
    if is_picture and SEEN[0] <= high - low <= SEEN[1]:
        return -1.0, 1.0
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def amplification(span: float, largest: float, is_broken: bool) -> float | None:
    """The largest of 1, 2, 5, 10 … that does not drive the largest difference beyond white."""
    if not largest:
        return 1.0 if is_broken else None
    room = min(span / largest, MOST)
    if room <= 1:
        return 1.0
    decade = 10.0 ** floor(log10(room))
    return max(step * decade for step in (1, 2, 5) if step * decade <= room or step == 1)


def plane(array: Any) -> Any:
    """Rows, columns and one or three channels, of the first of a batch."""
    import numpy

    while array.ndim > 3 or (array.ndim == 3 and array.shape[0] == 1):
        array = array[0]
    if array.ndim == 3:
        return numpy.moveaxis(array[:3] if array.shape[0] >= 3 else array[:1], 0, -1)
    return numpy.atleast_2d(array)[:, :, None]


def preview(latent: Any, base: str | None) -> Any:
    """About what the VAE would make of a latent [1, 4, rows, columns], an eighth as large."""
    import numpy

    factors = FACTORS["sdxl" if base is not None and base.startswith("sdxl") else "sd"]
    with numpy.errstate(all="ignore"):
        return numpy.moveaxis(latent[0], 0, -1) @ numpy.array(factors)


def pictures_of(component: str, original: Any, candidate: Any, base: str | None = None) -> Pictures:
    """Of outputs as they come from a network, numpy arrays of one shape."""
    if original.ndim == 4 and original.shape[1] == LATENT:
        label = "The denoised latent by a linear preview: its colours are near those of the picture, no more"
        return drawn(preview(original, base), preview(candidate, base), label, True)
    if original.ndim == 4 and original.shape[1] == 3:
        return drawn(plane(original), plane(candidate), "A seeded latent, decoded", True)
    label = "Its output, as numbers: no picture"
    if component.startswith("text_encoder"):
        label = "The encoded prompt, as numbers: a row for each token, a column for each feature"
    elif original.ndim == 4 and original.shape[1] > LATENT:
        label = "The first three channels of the denoised latent: no picture"
    return drawn(plane(original), plane(candidate), label, False)


def every_picture(
    results: "Mapping[str, ComponentResult]", base: str | None, decoded: Mapping[str, tuple[Any, Any]]
) -> dict[str, Pictures]:
    """By component. `decoded` has the pictures that each file's own VAE made of its latents."""
    found: dict[str, Pictures] = {}
    for name, result in results.items():
        if name in decoded:
            label = "The denoised latent, decoded by each file's own VAE"
            before, after = decoded[name]
            found[name] = drawn(plane(before), plane(after), label, True)
        elif result.original is not None and result.candidate is not None:
            found[name] = pictures_of(name, result.original, result.candidate, base)
    return found


def paths_of(folder: Path, component: str) -> Iterator[Path]:
    return (folder / f"{component}-{side}.png" for side in SIDES)


def check_free(folder: Path) -> None:
    """Raises UsageError where pictures of an earlier run would be replaced: known before anything is run."""
    for component in (*COMPONENTS, "other"):
        taken = next((path for path in paths_of(folder, component) if path.exists()), None)
        if taken is not None:
            raise exists(taken)


def write_pictures(folder: Path, component: str, pictures: Pictures, force: bool) -> list[Path]:
    """Write the PNGs of one component. Raises UsageError where one is there already, unless `force`."""
    paths = list(paths_of(folder, component))
    for path, side in zip(paths, SIDES, strict=True):
        data: bytes = getattr(pictures, side)
        with Output(path, len(data), force) as output:
            write_at(output.fd, data, 0)
    return paths
