"""`ckptool sanitize --pr`: what is told of the pull requests."""

import json

import click

from ckptool.errors import CkptoolError
from ckptool.report import Report
from ckptool.sanitize.pull.pull import batches, failed_data, pull
from ckptool.sanitize.run import Run


def open_pulls(run: Run, done: list[Report], as_json: bool, quiet: bool) -> CkptoolError | None:
    """One for each repository, told on stderr, and on stdout as a line of JSON; the error of one that was not opened.

    The others are opened all the same.
    """
    failed: CkptoolError | None = None
    for hub, files in batches(run.jobs, done):
        try:
            pulled = pull(hub, run.policy, files)
        except CkptoolError as error:
            if failed is not None:
                click.echo(f"error: {error.message}\nhint: {error.hint}", err=True)
            failed, data, told = failed or error, failed_data(hub, error), ""
        else:
            data, told = pulled.data, str(pulled)
        if as_json:
            click.echo(json.dumps(data))
        if told and not quiet:
            click.echo(told, err=True)
    return failed
