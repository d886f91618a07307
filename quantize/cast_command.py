"""What `fp16`, `bf16` and `fp8` share: their options, and one run that is done again when a value does not fit."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from ckptool.address import Source
from ckptool.convert.transform_command import Work, transform
from ckptool.errors import Refused
from ckptool.options import Options
from ckptool.quantize.cast import Casting, Measure
from ckptool.quantize.choose import Settings
from ckptool.quantize.figures import figures, lines
from ckptool.quantize.kernels import Overflowed
from ckptool.text import escape

F = TypeVar("F", bound=Callable[..., Any])


def casting(function: F) -> F:
    """--keep-fp32, --on-overflow and --max-error."""
    options = (
        click.option(
            "--keep-fp32", multiple=True, metavar="GLOB", help="Leave tensors of such a name as they are (repeatable)."
        ),
        click.option(
            "--on-overflow",
            type=click.Choice(["keep", "clamp", "fail"]),
            default="keep",
            show_default=True,
            help="Values beyond the range: leave their tensor as it is, write the largest value, or refuse the file.",
        ),
        click.option(
            "--max-error",
            type=float,
            metavar="E",
            help="Leave as few tensors as they are as keep the outputs of the denoise step within E (relative L2);"
            " needs the extra of `ckptool verify`, and minutes for a large model.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def components(function: F) -> F:
    """--vae and --text-encoder, where a cast takes both unless told otherwise."""
    options = (
        click.option(
            "--vae",
            type=click.Choice(["cast", "keep"]),
            default="cast",
            show_default=True,
            help="Cast the VAE, or keep it: in F16 some VAEs make black images.",
        ),
        click.option(
            "--text-encoder",
            type=click.Choice(["cast", "keep"]),
            default="cast",
            show_default=True,
            help="Cast the text encoders, or keep them.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def half(to: str, source: Source, destination: Path | None, given: dict[str, Any]) -> None:
    """Run `fp16` or `bf16` with the values of `casting`, `components` and `transforming`."""
    own = {name: given.pop(name) for name in ("on_overflow", "vae", "text_encoder")}
    settings = Settings(to=to, keep=given.pop("keep_fp32"), **own)
    max_error = given.pop("max_error")
    cast(source, destination, {"F16": "-fp16", "BF16": "-bf16"}[to], settings, Options(**given), max_error)


def cast(
    source: Source,
    destination: Path | None,
    suffix: str,
    settings: Settings,
    options: Options,
    max_error: float | None = None,
) -> None:
    """Run the cast. One pass where all values fit; where some do not, a second one that looks before it writes."""
    label = escape(str(source), 1000)
    measure = None if max_error is None else measuring(max_error, options.quiet or options.no_progress)
    for careful in (False, True):
        run = Casting(settings, label, careful, measure)
        work = Work(step=run.step, suffix=suffix, report=partial(figures, run), lines=lines)
        try:
            return transform(source, destination, work, options)
        except Overflowed:
            continue
    raise Refused(f"{label}: its values changed while they were read", "run it again")


def measuring(max_error: float, hidden: bool) -> Measure:
    """What finds the tensors that have to stay as they are."""
    from ckptool.verify.search_command import check_error, check_extra, wide_within

    check_error(max_error)
    check_extra("--max-error")
    return partial(wide_within, max_error=max_error, hidden=hidden)
