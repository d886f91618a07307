"""`ckptool fp16`: the command."""

from pathlib import Path
from typing import Any

import click

from ckptool.address import Source
from ckptool.options import transforming
from ckptool.quantize.cast_command import casting, components, half


@click.command("fp16", short_help="Cast F32 to F16, what that would break left as it is.")
@casting
@components
@transforming
def command(source: Source, destination: Path | None, **options: Any) -> None:
    """Cast F32 and F64 to F16: half the size, each value rounded to the nearest as torch's half() does.

    SRC is anything that `convert` takes. DST defaults to SRC with -fp16.safetensors. What a cast would break is left as
    it is: integers, schedule buffers, position ids, counters of the EMA, markers, an alpha that F16 has no exact value
    for. So are tensors that are no wider than F16, and tensors with values beyond 65504 (--on-overflow).

    SRC may stand on another machine: hf://owner/repo[@revision]/path, https:// or s3://.

    \b
    Examples:
      ckptool fp16 model.ckpt
      ckptool fp16 model.safetensors small.safetensors --vae keep
      ckptool fp16 model.safetensors --keep-fp32 '*norm*' --on-overflow fail
      ckptool fp16 model.safetensors --max-error 0.0005

    Exit codes: 0 done, 1 with --fail-on-finding, 2 usage, 3 the input is refused, 4 --max-error
    cannot be kept.
    """
    half("F16", source, destination, options)
