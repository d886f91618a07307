"""`ckptool prune`: the command."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ckptool.address import Source
from ckptool.convert.destination import destination_of
from ckptool.convert.transform_command import Work, transform
from ckptool.errors import UsageError
from ckptool.options import Options, transforming
from ckptool.prune.select import CHOICES

if TYPE_CHECKING:
    from ckptool.prune.step import Measure

SUFFIX = "-pruned"
MAX_ERROR = 0.001
"""What `--threshold auto` allows unless told otherwise: about twice what an F16 cast of full-size models costs."""


def rank_value(_: click.Context, __: click.Parameter, value: str | None) -> int | Literal["auto"] | None:
    """A number from 1 on, or auto."""
    if value is None or value == "auto":
        return value  # type: ignore[return-value]  # the literal itself
    if not value.isdecimal() or not value.isascii() or not 0 < int(value[:9]) or len(value) > 9:
        raise click.BadParameter(f"{value!r} is neither a number from 1 on nor auto")
    return int(value)


def threshold_value(_: click.Context, __: click.Parameter, value: str | None) -> float | Literal["auto"] | None:
    """A number, or auto."""
    if value is None or value == "auto":
        return value  # type: ignore[return-value]  # the literal itself
    try:
        return float(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is neither a number nor auto") from None


@click.command("prune", short_help="Remove what inference does not need.")
@click.option(
    "--ema",
    type=click.Choice(["drop", "use", "keep"]),
    help="The moving average of the weights: leave it out, write it under the plain names, or keep both.  [default:"
    " drop; of params_ema beside params, which loaders prefer, the average is what stays]",
)
@click.option("--only", multiple=True, type=click.Choice(CHOICES), metavar="COMPONENT", help="Keep this component.")
@click.option("--without", multiple=True, type=click.Choice(CHOICES), metavar="COMPONENT", help="Leave it out.")
@click.option("--keep", multiple=True, metavar="GLOB", help="Keep tensors by name; wins over everything else.")
@click.option("--drop", multiple=True, metavar="GLOB", help="Leave out tensors by name.")
@click.option(
    "--threshold",
    callback=threshold_value,
    metavar="T|auto",
    help="Make values with |w| < T zero, in weights where that is safe; auto is the largest T within --max-error.",
)
@click.option(
    "--max-error",
    type=float,
    metavar="E",
    help="How far a threshold may move the outputs of the denoise step (relative L2); else nothing is written."
    f"  [default with auto: {MAX_ERROR:g}]",
)
@click.option("--relative", is_flag=True, help="T is a fraction of the RMS of each tensor.")
@click.option("--repair-position-ids", is_flag=True, help="Make float or inexact position ids integers from 0 again.")
@click.option("--rank", callback=rank_value, metavar="N|auto", help="Lower the rank of a LoRA's modules.")
@click.option("--rank-energy", type=float, metavar="E", help="Lower it as far as this share of the energy stays.")
@click.option("--to-lora", is_flag=True, help="Turn LoHa, LoKr and full differences into plain LoRA.")
@transforming
def command(source: Source, destination: Path | None, **options: Any) -> None:
    """Remove what inference does not need: EMA, training state, and what you name. All else stays, to the bit.

    SRC is anything that convert reads. DST defaults to SRC with -pruned.safetensors. The result is identified again:
    when its kind, base, variant or prediction type would change, nothing is written.

    SRC may stand on another machine: hf://owner/repo[@revision]/path, https:// or s3://.

    --max-error runs the model before and after, as `ckptool verify` does, and needs its extra. With --threshold auto
    some twelve thresholds are tried, which takes minutes for a large model.

    COMPONENT is unet, vae, text_encoder (te, clip), text_encoder_2 (te2), ema, control, training or other. One alone
    gets the names that UIs load it by: a UNet, a VAE or a text encoder without its prefix, a ControlNet with
    control_model. A GLOB (*, ?, [...]) is held against whole names; * goes across dots.

    \b
    Examples:
      ckptool prune v1-5-pruned.ckpt --ema use
      ckptool prune hf://owner/repo/v1-5-pruned.ckpt --ema drop
      ckptool prune model.safetensors vae.safetensors --only vae
      ckptool prune model.ckpt --drop 'depth_model.*' --dry-run
      ckptool prune model.safetensors --threshold 1e-4
      ckptool prune model.safetensors --threshold auto --max-error 0.002
      ckptool prune lora.safetensors --rank auto

    Exit codes: 0 done, 1 with --fail-on-finding, 2 usage, 3 the input is refused, 4 a threshold costs more than
    --max-error.
    """
    from ckptool.prune.step import Prune, Wishes

    common = Options(**{name: options.pop(name) for name in Options.__dataclass_fields__})
    folder = destination_of(source, destination, SUFFIX).parent
    measure = measuring(options.pop("max_error"), options["threshold"], common.quiet or common.no_progress)
    prune = Prune(Wishes(**options), folder, common.dry_run, measure)
    transform(source, destination, Work(step=prune, suffix=SUFFIX, report=prune.data, lines=prune.lines), common)


def measuring(max_error: float | None, threshold: float | Literal["auto"] | None, hidden: bool) -> "Measure | None":
    """What holds a threshold to an error; None where no error was asked for, so that nothing is run."""
    if threshold is None and max_error is not None:
        raise UsageError("--max-error says how far a threshold may go", "give --threshold auto, or a number, too")
    if threshold == "auto" and max_error is None:
        max_error = MAX_ERROR
    if max_error is None:
        return None
    from ckptool.verify.search_command import check_error, check_extra, threshold_within

    check_error(max_error)
    check_extra("--max-error")
    number = None if threshold == "auto" else threshold
    return partial(threshold_within, threshold=number, max_error=max_error, hidden=hidden)
