"""The commands ``tiercel accounts ...``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from click.testing import CliRunner, Result

from kernel.testing import Client


def run(client: Client, group: str, *arguments: str) -> Result:
    """Run a command."""
    return CliRunner().invoke(client.command("accounts", group), list(arguments))


def made(client: Client, group: str, *arguments: str) -> Any:
    """Run a command that creates or lists, and return what it printed."""
    result = run(client, group, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return msgspec.json.decode(result.stdout)


def test_accounts_plans_and_users_are_created_and_listed(own_client: Client) -> None:
    client = own_client
    plan = made(client, "plans", "create", "small", "--requests-per-day", "100")
    account = made(client, "accounts", "create", "acme", "--name", "Acme", "--plan", "small")
    user = made(client, "users", "create", "Ann@Example.com", "--role", "owner", "--account", str(account["id"]))

    assert (plan["requests_per_day"], plan["events_per_day"]) == (100, None)
    assert (account["slug"], account["name"], account["is_system"]) == ("acme", "Acme", False)
    assert (user["account"], user["email"], user["role"]) == (account["id"], "ann@example.com", "owner")
    assert [each["slug"] for each in made(client, "accounts", "list")] == ["system", "acme"]
    assert [each["slug"] for each in made(client, "plans", "list")] == ["unlimited", "small"]
    assert [each["id"] for each in made(client, "users", "list", "--account", str(account["id"]))] == [user["id"]]
    assert "acme" in run(client, "accounts", "list").stdout
    with client.service.db.connection() as connection:
        state = connection.execute("SELECT is_active, limits FROM accounts.plan_state(%s)", [account["id"]]).fetchone()
    assert state is not None
    assert (state[0], state[1]["requests"]) == (True, 100)


def test_what_is_wrong_is_said_by_field(own_client: Client) -> None:
    for arguments, said in (
        (("accounts", "create", "acme", "--plan", "none"), "plan: There is no plan 'none'."),
        (("accounts", "create", "7"), "slug"),
        (("accounts", "create", "system"), "slug: This value is taken already."),
        (("users", "create", "nobody"), "email: Expected an e-mail address"),
        (("users", "create", "a@example.com", "--account", "99"), "There is no account"),
    ):
        result = run(own_client, *arguments)
        assert (result.exit_code, said in result.output) == (1, True), result.output
    assert [each["slug"] for each in made(own_client, "accounts", "list")] == ["system"]


def test_files_are_imported_and_exported(own_client: Client, tmp_path: Path) -> None:
    file = tmp_path / "sites.csv"
    template = run(own_client, "sites", "template")
    file.write_bytes(template.stdout_bytes + b"shop,Shop,\r\n")

    checked = run(own_client, "sites", "import", str(file), "--dry-run")
    imported = run(own_client, "sites", "import", str(file))
    exported = run(own_client, "sites", "export")

    assert (checked.stdout, imported.stdout) == ("1 created, 0 updated, 0 unchanged\n",) * 2
    assert exported.stdout_bytes == file.read_bytes()
    assert [each["slug"] for each in made(own_client, "sites", "list")] == ["shop"]
    file.write_bytes(b"slug,name\nBad,Bad\n")
    wrong = run(own_client, "sites", "import", str(file))
    assert (wrong.exit_code, wrong.stderr.startswith("line 2: slug: ")) == (1, True)
    sectors = tmp_path / "sectors.csv"
    sectors.write_bytes(b"site,slug,name\nshop,a,A\n")
    assert run(own_client, "sectors", "import", str(sectors)).exit_code == 0
    assert "shop,a,A" in run(own_client, "sectors", "export").stdout
