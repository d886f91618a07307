"""`ckptool bf16`: the command."""

from pathlib import Path
from typing import Any

import click

from ckptool.address import Source
from ckptool.options import Options, transforming
from ckptool.quantize.cast_command import cast, casting, components
from ckptool.quantize.choose import Settings


@click.command("bf16", short_help="Cast F32 to BF16.")
@casting
@components
@transforming
def command(
    source: Source,
    destination: Path | None,
    keep_fp32: tuple[str, ...],
    on_overflow: str,
    max_error: float | None,
    vae: str,
    text_encoder: str,
    **options: Any,
) -> None:
    """Cast F32 and F64 to BF16: half the size, the range of F32, and eight times the error of F16.

    SRC is anything that `convert` takes. DST defaults to SRC with -bf16.safetensors. Take it where a program asks for
    BF16. What a cast would break is left as it is: see `ckptool fp16`.

    SRC may stand on another machine: hf://owner/repo[@revision]/path, https:// or s3://.

    \b
    Examples:
      ckptool bf16 flux.safetensors
      ckptool bf16 model.ckpt small.safetensors --vae keep

    Exit codes: 0 done, 1 with --fail-on-finding, 2 usage, 3 the input is refused, 4 --max-error
    cannot be kept.
    """
    settings = Settings(to="BF16", on_overflow=on_overflow, keep=keep_fp32, vae=vae, text_encoder=text_encoder)
    cast(source, destination, "-bf16", settings, Options(**options), max_error)
