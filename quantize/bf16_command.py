"""`ckptool bf16`: the command."""

from pathlib import Path
from typing import Any

import click

from ckptool.address import Source
from ckptool.options import transforming
from ckptool.quantize.cast_command import casting, components, half


@click.command("bf16", short_help="Cast F32 to BF16.")
@casting
@components
@transforming
def command(source: Source, destination: Path | None, **options: Any) -> None:
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
    half("BF16", source, destination, options)
