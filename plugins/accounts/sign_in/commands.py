"""``tiercel accounts create-admin``, ``users set-password``, ``jwt-keys`` and ``first-key``."""

from __future__ import annotations

from collections.abc import Iterable

import click

from kernel import (
    Command,
    NotFoundError,
    Services,
    load_queries,
)
from kernel.cli import echo, print_json, print_table, read_password
from kernel.identity import SYSTEM_ACCOUNT, Scope, acting_as
from plugins.accounts.container import Container
from plugins.accounts.emails import normalize_email
from plugins.accounts.keys import NewKey
from plugins.accounts.sign_in.reset import own_words
from plugins.accounts.sign_in.users import NewUser

QUERIES = load_queries(__package__)
_stdin_option = click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
_email_argument = click.argument("email", callback=lambda _context, _parameter, value: _email(value))


def make_commands(container: Container, services: Services) -> Iterable[Command]:
    """Make the commands."""
    return [
        Command(command=_create_admin(container), alias="sudo"),
        Command(command=_jwt_keys_group(container)),
        Command(command=_first_key(container, services), demo=()),
    ]


def _email(text: str) -> str:
    try:
        return normalize_email(text)
    except ValueError as ex:
        raise click.BadParameter(str(ex)) from ex


def _create_admin(container: Container) -> click.Command:
    @click.command("create-admin")
    @_email_argument
    @click.option("--name", default="", help="Name for people.")
    @_stdin_option
    def create_admin(*, email: str, name: str, password_stdin: bool) -> None:
        """Create a user EMAIL who owns the system account, and so administers the service.

        The password is read from the environment (TIERCEL_PASSWORD), from standard input, or asked for: never from the
        arguments, which other users of the machine see.
        """
        password = read_password(from_stdin=password_stdin)
        container.sign_in.passwords.ensure_acceptable(password, field="password", own_words=own_words(email, name))
        new = NewUser(account=SYSTEM_ACCOUNT, email=email, name=name, role="owner")
        number = container.sign_in.users.create(new, container.sign_in.passwords.hash(password))
        echo(f"user {number}, {email}, administers the service")

    return create_admin


def make_set_password(container: Container) -> click.Command:
    """Make the command ``set-password`` of the group ``users``."""

    @click.command("set-password")
    @_email_argument
    @_stdin_option
    def set_password(*, email: str, password_stdin: bool) -> None:
        """Give the user EMAIL a new password; all sessions and tokens of the user end.

        The password is read as by `create-admin`.
        """
        found = container.sign_in.users.find_password(email)
        if found is None:
            raise NotFoundError(detail=f"there is no active user {email}")
        password = read_password(from_stdin=password_stdin)
        container.sign_in.passwords.ensure_acceptable(password, field="password", own_words=own_words(email))
        container.sign_in.users.set_password(found[0], container.sign_in.passwords.hash(password))
        echo(f"user {found[0]}, {email}, has a new password")

    return set_password


def _jwt_keys_group(container: Container) -> click.Group:
    signing_keys = container.sign_in.signing_keys

    @click.group("jwt-keys")
    def group() -> None:
        """List and rotate the keys that sign access tokens."""

    @group.command("list")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def list_keys(*, as_json: bool) -> None:
        """List the keys, without their secrets, the newest first."""
        titles = ("kid", "created_at", "retired_at")
        rows = [(key.kid, key.created_at, key.retired_at) for key in signing_keys.list_jwt()]
        if as_json:
            print_json([dict(zip(titles, row, strict=True)) for row in rows])
            return
        print_table(titles, rows)

    @group.command("rotate")
    @click.option(
        "--at-once", is_flag=True, help="Forget the others: their access tokens end now, not when they expire."
    )
    def rotate(*, at_once: bool) -> None:
        """Sign with a new key, in every process. What others have signed is good until it expires."""
        echo(f"key {signing_keys.rotate_jwt(at_once=at_once).kid} signs access tokens")

    return group


def _first_key(container: Container, services: Services) -> click.Command:
    @click.command("first-key")
    def first_key() -> None:
        """Print a key that may do everything, if there is none yet and one is needed.

        `tiercel up` does so when it starts with `auth = "required"`.
        """
        if services.kernel_settings.auth != "required":
            return
        with acting_as(None), services.db.transaction() as connection:
            # Of two at the same time, one waits, and then finds the key.
            connection.execute(QUERIES["lock_first_key"])
            row = connection.execute(QUERIES["count_keys"], {"account": SYSTEM_ACCOUNT}).fetchone()
            if row is None or row[0]:
                return
            scopes: tuple[Scope, ...] = ("ingest", "read", "write", "staff")
            issued = container.keys.create(NewKey(account=SYSTEM_ACCOUNT, name="first", scopes=scopes))
        # To the terminal of whoever starts the service, and nowhere else.
        echo("The first key of this service. It may do everything, and is shown this once:\n")
        echo(f"  {issued.secret}\n")
        echo(f"Send it as a header: -H 'X-API-Key: tk_{issued.key.prefix}_...'")

    return first_key
