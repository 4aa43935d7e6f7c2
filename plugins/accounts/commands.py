"""The commands ``tiercel accounts ...``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import click

from kernel import SYSTEM_ACCOUNT, Command, Scope
from kernel.cli import echo, print_json, print_table
from plugins.accounts.container import Container
from plugins.accounts.keys import IssuedKey, NewKey
from plugins.accounts.sign_in.commands import make_set_password

_SCOPES: tuple[Scope, ...] = ("ingest", "read", "write", "staff")
_account_option = click.option("--account", default=SYSTEM_ACCOUNT, show_default=True, help="Number of the account.")
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def make_commands(container: Container) -> Iterable[Command]:
    """Make the commands."""
    return [Command(command=_keys_group(container)), Command(command=_users_group(container))]


def _users_group(container: Container) -> click.Group:
    @click.group("users")
    def group() -> None:
        """Give users passwords."""

    group.add_command(make_set_password(container))
    return group


def _keys_group(container: Container) -> click.Group:
    keys = container.keys

    @click.group("keys")
    def group() -> None:
        """Create, list, revoke and rotate API keys."""

    @group.command("create")
    @click.argument("name")
    @click.option("--scope", "scopes", multiple=True, required=True, type=click.Choice(_SCOPES), help="What it may do.")
    @_account_option
    @_json_option
    def create(*, name: str, scopes: tuple[Scope, ...], account: int, as_json: bool) -> None:
        """Create a key, and print it: this once."""
        _print_issued(keys.create(NewKey(account=account, name=name, scopes=scopes)), as_json=as_json)

    @group.command("list")
    @_account_option
    @_json_option
    def list_keys(*, account: int, as_json: bool) -> None:
        """List the keys of an account, the newest first."""
        found = keys.list(account)
        if as_json:
            print_json(found)
            return
        titles = ("id", "prefix", "name", "scopes", "expires_at", "last_used_at", "revoked_at")
        print_table(
            titles,
            [
                [
                    each.id,
                    f"tk_{each.prefix}",
                    each.name,
                    ", ".join(each.scopes),
                    each.expires_at,
                    each.last_used_at,
                    each.revoked_at,
                ]
                for each in found
            ],
        )

    @group.command("revoke")
    @click.argument("key_id", type=int, metavar="ID")
    @_account_option
    def revoke(*, key_id: int, account: int) -> None:
        """Make a key stop working, everywhere."""
        keys.revoke(account, key_id)
        echo(f"key {key_id} is revoked")

    @group.command("rotate")
    @click.argument("key_id", type=int, metavar="ID")
    @click.option("--overlap-h", default=24.0, show_default=True, help="How many hours the old key still works.")
    @_account_option
    @_json_option
    def rotate(*, key_id: int, overlap_h: float, account: int, as_json: bool) -> None:
        """Replace a key by a new one, and print that: this once."""
        _print_issued(keys.rotate(account, key_id, timedelta(hours=overlap_h)), as_json=as_json)

    return group


def _print_issued(issued: IssuedKey, *, as_json: bool) -> None:
    if as_json:
        print_json(issued)
        return
    echo(issued.secret)
    echo(f"key {issued.key.id}; it is not shown again", err=True)
