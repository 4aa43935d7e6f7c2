"""The command ``tiercel``."""

from __future__ import annotations

import signal
import sys

import click

from kernel.cli.root import root
from kernel.errors import ApiError, ConfigError, TiercelError


def main() -> None:
    """Run the command line. Exit codes: 0 well, 1 a problem (one line for each), 2 wrong usage."""
    # Whoever just died would leave the embedded server running. gunicorn and the workers have handlers of their own.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        root(prog_name="tiercel", standalone_mode=False)
    except click.ClickException as ex:
        ex.show()
        sys.exit(ex.exit_code)
    except click.Abort:
        sys.exit(130)
    except ConfigError as ex:
        for problem in ex.problems:
            click.echo(f"tiercel: {problem}", err=True)
        sys.exit(1)
    except ApiError as ex:
        wrong = [f"{field}: {' '.join(messages)}" for field, messages in (ex.errors or {}).items()]
        for problem in wrong or [f"{ex.message} {ex.detail or ''}".rstrip()]:
            click.echo(f"tiercel: {problem}", err=True)
        sys.exit(1)
    except TiercelError as ex:
        click.echo(f"tiercel: {ex}", err=True)
        sys.exit(1)


__all__ = ["main"]
