"""What `fp16`, `bf16` and `fp8` share: their options, and one run that is done again when a value does not fit."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click

from ckptool.convert.transform_command import Work, transform
from ckptool.errors import Refused
from ckptool.options import Options
from ckptool.quantize.cast import Casting
from ckptool.quantize.choose import Settings
from ckptool.quantize.figures import figures, lines
from ckptool.quantize.kernels import Overflowed
from ckptool.text import escape

F = TypeVar("F", bound=Callable[..., Any])


def casting(function: F) -> F:
    """--keep-fp32 and --on-overflow."""
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


def cast(source: Path, destination: Path | None, suffix: str, settings: Settings, options: Options) -> None:
    """Run the cast. One pass where all values fit; where some do not, a second one that looks before it writes."""
    label = escape(str(source), 1000)
    for careful in (False, True):
        run = Casting(settings, label, careful)
        work = Work(step=run.step, suffix=suffix, report=partial(figures, run), lines=lines)
        try:
            return transform(source, destination, work, options)
        except Overflowed:
            continue
    raise Refused(f"{label}: its values changed while they were read", "run it again")
