"""The command ``grpo-host``. Its subcommands are imported when they are called."""

from __future__ import annotations

from collections.abc import Sequence

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and give its exit status.

    0: done. 2: a problem that the user can fix, reported in one line. 130: interrupted. Anything else is
    a bug and ends in a traceback.
    """
    import click

    from grpo_host.cli.streams import give_up_output, lasting_streams
    from grpo_host.utils.paths import ensure_home

    ensure_home()
    with lasting_streams() as output:
        status = _run(arguments)
    problem = output.problem if output is not None else None
    if problem is None:
        return status
    give_up_output()
    if isinstance(problem, BrokenPipeError):  # its reader has all that it wants, as in `| head`
        return status
    click.echo(f"error: cannot write to standard output: {problem.strerror}; not all was printed", err=True)
    return status or 2


def _run(arguments: Sequence[str] | None) -> int:
    import click

    from grpo_host.cli.group import grpo_host
    from grpo_sdk.errors import GrpoError

    try:
        status = grpo_host.main(
            None if arguments is None else list(arguments),
            prog_name="grpo-host",
            standalone_mode=False,
        )
    except GrpoError as error:
        for line in str(error).splitlines():
            click.echo(f"error: {line}", err=True)
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    return status if isinstance(status, int) else 0
