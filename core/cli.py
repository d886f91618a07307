"""The `ckptool` command: subcommands stand in their folders and are loaded when they are called."""

import gc
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from ckptool import __version__
from ckptool.errors import EXIT_INTERRUPTED, EXIT_REFUSED, EXIT_USAGE, CkptoolError
from ckptool.text import escape

# Command -> its module and its one line of help, so that `ckptool --help` loads none of them.
COMMANDS: dict[str, tuple[str, str]] = {
    "bf16": ("ckptool.quantize.bf16_command", "Cast F32 to BF16."),
    "compat": ("ckptool.identify.compat_command", "Say whether adapters and embeddings fit a checkpoint."),
    "convert": ("ckptool.convert.command", "Convert a checkpoint to safetensors, disarmed."),
    "fp8": ("ckptool.quantize.fp8_command", "Cast to FP8 (E4M3 or E5M2)."),
    "fp16": ("ckptool.quantize.fp16_command", "Cast F32 to F16, what that would break left as it is."),
    "inspect": ("ckptool.identify.command", "Say what a file is, what is in it, and where it belongs."),
    "place": ("ckptool.identify.place_command", "Put a file where a UI looks for its kind."),
    "prune": ("ckptool.prune.command", "Remove what inference does not need."),
    "receipt": ("ckptool.sanitize.receipt_command", "Hold what sanitize wrote against its receipts."),
    "sanitize": ("ckptool.sanitize.command", "All of it for many files, by a policy, each with a receipt."),
    "scan": ("ckptool.convert.scan_command", "Say what each pickle would import and call, without doing it."),
    "verify": ("ckptool.verify.command", "Prove that a changed model is still the same."),
}


class Gone(Exception):  # no error for people: nobody is there to be told
    """Whoever read our output has enough of it, as `head` does."""


@contextmanager
def heard() -> Iterator[None]:
    """Click itself takes a reader that has gone for exit code 1, which here means findings."""
    try:
        yield
    except BrokenPipeError as error:
        raise Gone from error


class Lazy(click.Group):
    """A group whose commands are imported by name."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        with heard():
            return super().make_context(*args, **options)

    def invoke(self, ctx: click.Context) -> Any:
        with heard():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ckptool")
def cli() -> None:
    """Disarm, slim and prove model checkpoints by streaming their tensors.

    \b
    Exit codes: 0 done or clean, 1 findings, 2 usage, 3 the input is refused,
    4 parity not shown, 130 interrupted.
    """


def main() -> None:
    """Run the command line; every error of ours is two lines and an exit code."""
    gc.set_threshold(500_000, 20, 20)  # a checkpoint is many small objects without cycles
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # unwinds, so that nothing is left behind
    try:
        sys.exit(cli.main(standalone_mode=False))
    except CkptoolError as error:
        fail(error.message, error.hint, error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except Gone:
        unheard()
    except OSError as error:
        where = f"{escape(str(error.filename), 1000)}: " if error.filename else ""
        fail(f"{where}{error.strerror or error}", "check the path and its permissions", EXIT_USAGE)
    except MemoryError:
        fail(
            "there is not enough memory",
            "the file asks for more than a model of its size needs, or the limit is too low",
            EXIT_REFUSED,
        )
    except (click.Abort, KeyboardInterrupt):
        fail("interrupted", "nothing was left behind; run it again when you like", EXIT_INTERRUPTED)


def unheard() -> NoReturn:
    """End as a program does that SIGPIPE ends; what is left in a buffer goes nowhere, without a word."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    sys.exit(128 + signal.SIGPIPE)


def fail(message: str, hint: str, code: int) -> None:
    """Two lines on stderr: what is wrong, what to do."""
    click.echo(f"error: {message}\nhint: {hint}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
