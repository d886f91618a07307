"""`ckptool convert`: the command."""

from pathlib import Path
from typing import Any

import click

from ckptool.address import Source
from ckptool.convert.transform_command import Work, transform
from ckptool.options import Options, transforming


@click.command("convert", short_help="Convert a checkpoint to safetensors, disarmed.")
@transforming
def command(source: Source, destination: Path | None, **options: Any) -> None:
    """Convert a checkpoint to safetensors, disarmed: every tensor equal to the bit, nothing executed.

    SRC is a file (.ckpt .pt .pth .bin .safetensors, told apart by content), a sharded *.index.json, or a diffusers
    folder. DST defaults to SRC with the ending .safetensors. A hypernetwork becomes a clean .pt when DST ends in .pt.

    SRC may stand on another machine: hf://owner/repo[@revision]/path, https:// or s3://.

    \b
    Examples:
      ckptool convert model.ckpt
      ckptool convert model.ckpt clean.safetensors --report model.html
      ckptool convert pytorch_model.bin.index.json --max-shard-size 5GB
      ckptool convert anime.pt clean/anime.pt

    Exit codes: 0 done, 1 with --fail-on-finding, 2 usage, 3 the input is refused.
    """
    transform(source, destination, Work(step=lambda plan: plan), Options(**options))
