"""`ckptool prune`: the command."""

from pathlib import Path
from typing import Any, Literal

import click

from ckptool.convert.destination import destination_of
from ckptool.convert.transform_command import Work, transform
from ckptool.options import Options, transforming
from ckptool.prune.select import CHOICES

SUFFIX = "-pruned"


def rank_value(_: click.Context, __: click.Parameter, value: str | None) -> int | Literal["auto"] | None:
    """A number from 1 on, or auto."""
    if value is None or value == "auto":
        return value  # type: ignore[return-value]  # the literal itself
    if not value.isdecimal() or not value.isascii() or not 0 < int(value[:9]) or len(value) > 9:
        raise click.BadParameter(f"{value!r} is neither a number from 1 on nor auto")
    return int(value)


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
    "--threshold", type=float, metavar="T", help="Make values with |w| < T zero, in weights where that is safe."
)
@click.option("--relative", is_flag=True, help="T is a fraction of the RMS of each tensor.")
@click.option("--repair-position-ids", is_flag=True, help="Make float or inexact position ids integers from 0 again.")
@click.option("--rank", callback=rank_value, metavar="N|auto", help="Lower the rank of a LoRA's modules.")
@click.option("--rank-energy", type=float, metavar="E", help="Lower it as far as this share of the energy stays.")
@click.option("--to-lora", is_flag=True, help="Turn LoHa, LoKr and full differences into plain LoRA.")
@transforming
def command(source: Path, destination: Path | None, **options: Any) -> None:
    """Remove what inference does not need: EMA, training state, and what you name. All else stays, to the bit.

    SRC is anything that convert reads. DST defaults to SRC with -pruned.safetensors. The result is identified again:
    when its kind, base, variant or prediction type would change, nothing is written.

    COMPONENT is unet, vae, text_encoder (te, clip), text_encoder_2 (te2), ema, control, training or other. One alone
    gets the names that UIs load it by: a UNet, a VAE or a text encoder without its prefix, a ControlNet with
    control_model. A GLOB (*, ?, [...]) is held against whole names; * goes across dots.

    \b
    Examples:
      ckptool prune v1-5-pruned.ckpt --ema use
      ckptool prune model.safetensors vae.safetensors --only vae
      ckptool prune model.ckpt --drop 'depth_model.*' --dry-run
      ckptool prune model.safetensors --threshold 1e-4
      ckptool prune lora.safetensors --rank auto

    Exit codes: 0 done, 1 with --fail-on-finding, 2 usage, 3 the input is refused.
    """
    from ckptool.prune.step import Prune, Wishes

    common = Options(**{name: options.pop(name) for name in Options.__dataclass_fields__})
    folder = destination_of(source, destination, SUFFIX).parent
    prune = Prune(Wishes(**options), folder, common.dry_run)
    transform(source, destination, Work(step=prune, suffix=SUFFIX, report=prune.data, lines=prune.lines), common)
