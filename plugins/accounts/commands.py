"""The commands ``tiercel accounts ...``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, BinaryIO, TypeVar

import click
import msgspec

from kernel import (
    ApiError,
    Command,
)
from kernel.cli import echo, print_json, print_table
from kernel.http import CsvFiles, Resource
from kernel.identity import SYSTEM_ACCOUNT, Role, Scope
from plugins.accounts.container import Container
from plugins.accounts.keys import IssuedKey, NewKey, account_itself
from plugins.accounts.models import ROLE_SCOPES, NewAccount, NewPlan, NewUser
from plugins.accounts.sign_in.commands import make_set_password

T = TypeVar("T", bound=msgspec.Struct)
Row = TypeVar("Row", bound=msgspec.Struct)

_SCOPES: tuple[Scope, ...] = ("ingest", "read", "write", "staff")
_account_option = click.option("--account", default=SYSTEM_ACCOUNT, show_default=True, help="Number of the account.")
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def make_commands(container: Container) -> Iterable[Command]:
    """Make the commands."""
    groups = (_accounts_group, _plans_group, _users_group, _keys_group)
    files = (("sites", container.sites, container.site_files), ("sectors", container.sectors, container.sector_files))
    return [
        *(Command(command=make_group(container)) for make_group in groups),
        *(Command(command=_files_group(name, resource, csv_files)) for name, resource, csv_files in files),
    ]


def _accounts_group(container: Container) -> click.Group:
    @click.group("accounts")
    def group() -> None:
        """Create and list accounts."""

    @group.command("create")
    @click.argument("slug")
    @click.option("--name", help="For people; the slug by default.")
    @click.option("--plan", default="unlimited", show_default=True, help="Slug of the plan that it gets.")
    @_json_option
    def create(*, slug: str, name: str | None, plan: str, as_json: bool) -> None:
        """Create an account with a plan."""
        with _errors_by_field():
            account = container.create_account(_body(NewAccount, slug=slug, name=name or slug), plan)
        _print_created(account, f"account {account.id} is created", as_json=as_json)

    @group.command("list")
    @_json_option
    def list_accounts(*, as_json: bool) -> None:
        """List the accounts."""
        titles = ("id", "slug", "name", "is_system", "retention_days", "created_at")
        _print_rows(_all(container.accounts, SYSTEM_ACCOUNT), titles, as_json=as_json)

    return group


def _plans_group(container: Container) -> click.Group:
    @click.group("plans")
    def group() -> None:
        """Create and list plans."""

    @group.command("create")
    @click.argument("slug")
    @click.option("--name", help="For people; the slug by default.")
    @click.option("--requests-per-day", type=int, help="Requests; no limit by default.")
    @click.option("--events-per-day", type=int, help="Events that are stored; no limit by default.")
    @click.option("--bytes-per-day", type=int, help="Bytes that are received; no limit by default.")
    @click.option("--exports-per-day", type=int, help="Exports; no limit by default.")
    @_json_option
    def create(*, slug: str, name: str | None, as_json: bool, **limits: int | None) -> None:
        """Create a plan."""
        plan = _create(container.plans, SYSTEM_ACCOUNT, _body(NewPlan, slug=slug, name=name or slug, **limits))
        _print_created(plan, f"plan {plan.id} is created", as_json=as_json)

    @group.command("list")
    @_json_option
    def list_plans(*, as_json: bool) -> None:
        """List the plans."""
        limits = ("requests_per_day", "events_per_day", "bytes_per_day", "exports_per_day")
        titles = ("id", "slug", "name", "is_active", *limits)
        _print_rows(_all(container.plans, SYSTEM_ACCOUNT), titles, as_json=as_json)

    return group


def _users_group(container: Container) -> click.Group:
    @click.group("users")
    def group() -> None:
        """Create and list users."""

    @group.command("create")
    @click.argument("email")
    @click.option("--role", type=click.Choice(tuple(ROLE_SCOPES)), help="In the whole account; none by default.")
    @click.option("--name", default="", help="For people.")
    @_account_option
    @_json_option
    def create(*, email: str, role: Role | None, name: str, account: int, as_json: bool) -> None:
        """Create a user of an account."""
        user = _create(container.users, account, _body(NewUser, email=email, role=role, name=name))
        _print_created(user, f"user {user.id} is created", as_json=as_json)

    @group.command("list")
    @_account_option
    @_json_option
    def list_users(*, account: int, as_json: bool) -> None:
        """List the users of an account."""
        titles = ("id", "email", "name", "role", "is_active", "created_at")
        _print_rows(_all(container.users, account), titles, as_json=as_json)

    group.add_command(make_set_password(container))

    return group


def _files_group(name: str, resource: Resource[Any], csv_files: CsvFiles[Any]) -> click.Group:
    @click.group(name, help=f"List, import and export {name}.")
    def group() -> None:
        pass

    @group.command("list", help=f"List the {name} of an account.")
    @_account_option
    @_json_option
    def list_rows(*, account: int, as_json: bool) -> None:
        _print_rows(_all(resource, account), ("id", *resource.body.__struct_fields__), as_json=as_json)

    @group.command("template", help="Print the header of a CSV file to import.")
    def template() -> None:
        click.echo(csv_files.template(), nl=False)

    @group.command("export", help=f"Print the {name} of an account as CSV.")
    @_account_option
    def export(*, account: int) -> None:
        click.echo(csv_files.export(account_itself(account)), nl=False)

    @group.command("import", help=f"Create and change {name} as a CSV file has them: all, or none if a line is wrong.")
    @click.argument("file", type=click.File("rb"))
    @click.option("--dry-run", is_flag=True, help="Check the file only.")
    @_account_option
    def load(*, file: BinaryIO, dry_run: bool, account: int) -> None:
        content = file.read(csv_files.MAX_BYTES + 1)
        if len(content) > csv_files.MAX_BYTES:
            raise click.ClickException(f"the file has more than {csv_files.MAX_BYTES} bytes")
        with _errors_by_field():
            report = csv_files.load(content, account_itself(account), dry_run=dry_run)
        echo(f"{report.created} created, {report.updated} updated, {report.unchanged} unchanged")

    return group


def _body(kind: type[T], **values: Any) -> T:
    """Make a body of options.

    Raises:
        ClickException: A value is wrong.
    """
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as ex:
        raise click.ClickException(str(ex).replace("`", "")) from ex


def _create(resource: Resource[Row], account: int, body: msgspec.Struct) -> Row:
    identity = account_itself(account)
    with _errors_by_field(), resource.transaction(identity) as connection:
        return resource.insert(connection, msgspec.structs.asdict(body), identity)


def _all(resource: Resource[Any], account: int) -> Sequence[Any]:
    identity = account_itself(account)
    with resource.transaction(identity) as connection:
        return resource.select(connection, identity)


@contextmanager
def _errors_by_field() -> Iterator[None]:
    """Print what is wrong with each field, or line of a file, and fail."""
    try:
        yield
    except ApiError as ex:
        if not ex.errors:
            raise
        for name, messages in ex.errors.items():
            for message in messages:
                echo(f"{name}: {message}", err=True)
        raise click.ClickException(ex.message) from ex


def _print_created(row: msgspec.Struct, text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(row)
    else:
        echo(text)


def _print_rows(rows: Sequence[msgspec.Struct], titles: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    print_table(titles, [[getattr(row, title) for title in titles] for row in rows])


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
