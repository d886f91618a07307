"""`ckptool fp8`: the command."""

from pathlib import Path
from typing import Any

import click

from ckptool.address import Source
from ckptool.options import Options, transforming
from ckptool.quantize.cast_command import cast, casting
from ckptool.quantize.choose import Settings

FORMATS = {"e4m3": "F8_E4M3", "e5m2": "F8_E5M2"}


@click.command("fp8", short_help="Cast to FP8 (E4M3 or E5M2).")
@click.option(
    "--format",
    "to",
    type=click.Choice(list(FORMATS)),
    default="e4m3",
    show_default=True,
    help="E4M3 is finer, up to 448; E5M2 is coarser, up to 57344.",
)
@click.option("--scale", is_flag=True, help="Give each linear weight a scale_weight, which ComfyUI reads.")
@click.option(
    "--rest",
    type=click.Choice(["f16", "keep"]),
    default="f16",
    show_default=True,
    help="What FP8 is not for (norms, biases, embeddings): cast F32 to F16, or keep it.",
)
@click.option(
    "--vae",
    type=click.Choice(["rest", "keep", "cast"]),
    default="rest",
    show_default=True,
    help="Treat the VAE as the rest, keep it, or cast it.",
)
@click.option(
    "--text-encoder",
    type=click.Choice(["auto", "rest", "keep", "cast"]),
    default="auto",
    show_default=True,
    help="The same for text encoders; auto casts one that is alone in its file.",
)
@casting
@transforming
def command(
    source: Source,
    destination: Path | None,
    to: str,
    scale: bool,
    rest: str,
    vae: str,
    text_encoder: str,
    keep_fp32: tuple[str, ...],
    on_overflow: str,
    max_error: float | None,
    **options: Any,
) -> None:
    """Cast the weights of linear layers and convolutions to FP8: a quarter of F32, for little memory.

    SRC is anything that `convert` takes. DST defaults to SRC with -fp8.safetensors. Values are rounded to the nearest;
    what is beyond the range never becomes NaN (--on-overflow). With --scale each linear weight of the diffusion
    model is divided by a scale that brings its largest value to the end of the range, so they are read twice.

    SRC may stand on another machine: hf://owner/repo[@revision]/path, https:// or s3://.

    \b
    Examples:
      ckptool fp8 sdxl.safetensors
      ckptool fp8 flux.safetensors --scale
      ckptool fp8 model.ckpt small.safetensors --format e5m2 --vae keep

    Exit codes: 0 done, 1 with --fail-on-finding, 2 usage, 3 the input is refused, 4 --max-error
    cannot be kept.
    """
    settings = Settings(
        to=FORMATS[to],
        on_overflow=on_overflow,
        keep=keep_fp32,
        vae=vae,
        text_encoder=text_encoder,
        rest=rest,
        scale=scale,
    )
    cast(source, destination, "-fp8", settings, Options(**options), max_error)
