"""The manual for the night: each alert and each check has its section, and what it tells to run can be run.

``test_tour`` runs the commands of its blocks on a service.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import msgspec
import psycopg
import pytest

from kernel.app import Tiercel
from kernel.cli.main import root
from kernel.contracts import HealthCheck
from kernel.last_backup import LastBackup
from kernel.testing import make_configuration
from tests.contract.tree import DOCS, ROOT
from tests.kernel.fakes import NOWHERE

OPERATIONS = DOCS / "operations"
ALERTS, CHECKS, TROUBLESHOOTING = (
    (OPERATIONS / name).read_text() for name in ("alerts.md", "checks.md", "troubleshooting.md")
)
RULES = (ROOT / "contrib" / "prometheus" / "tiercel.rules.yml").read_text()
PAGES = {path.name: path.read_text() for path in sorted(OPERATIONS.glob("*.md"))}
_SECTION = re.compile(r"^## (.*)\n((?:(?!## ).*\n?)*)", re.MULTILINE)
_FINDING = re.compile(r'(?:Finding|_run_check)\(\s*"([a-z_]+)"')
# Within code, on one line or at the beginning of one.
_COMMAND = re.compile(r"(?:`|^)(?:\.venv/bin/)?tiercel ([a-z-][^`|>&;\n]*)", re.MULTILINE)


@pytest.fixture(scope="module")
def service() -> Tiercel:
    """A service with everything that ships enabled, on no database."""
    return Tiercel(make_configuration(db={"url": NOWHERE}))


def sections(page: str) -> dict[str, str]:
    """Return the text of each section of a page by its title."""
    return dict(_SECTION.findall(page))


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_every_alert_has_its_section_and_leads_to_it() -> None:
    alerts = dict(re.findall(r"- alert: (\w+)(.*?)(?=- alert: |\Z)", RULES, re.DOTALL))
    titles = {name: re.sub(r"(?<!^)(?=[A-Z])", " ", name).capitalize() for name in alerts}
    anchors = {name: title.lower().replace(" ", "-") for name, title in titles.items()}

    assert len(alerts) > 15
    assert sorted(sections(ALERTS)) == sorted(titles.values())
    for name, rule in alerts.items():
        assert f"runbook: docs/operations/alerts.md#{anchors[name]}\n" in rule, name
        assert "summary: " in rule, name
        assert "description: " in rule, name


def test_every_check_has_its_section_which_says_where_it_is_shown(service: Tiercel) -> None:
    code = "".join((ROOT / "kernel" / "cli" / name).read_text() for name in ("admin.py", "checklist.py"))
    plugins = [check for _, check in service.registry.contributions(HealthCheck)]
    shown_by_check = {*_FINDING.findall(code), *(each.name for each in plugins if each.setup or each.review)}
    shown_by_readyz = set(service.shared.health.names)

    assert len(shown_by_check) > 20
    assert len(shown_by_readyz) >= 10
    assert sorted(sections(CHECKS)) == sorted(shown_by_check | shown_by_readyz)
    for name, text in sections(CHECKS).items():
        where = {
            (True, True): "In both. ",
            (True, False): "In `tiercel check`. ",
            (False, True): "In `/readyz`. ",
        }[name in shown_by_check, name in shown_by_readyz]
        assert text.startswith(f"\n{where}"), name


@pytest.mark.parametrize(("page", "least"), [(ALERTS, 20), (CHECKS, 25)], ids=["alerts", "checks"])
def test_every_section_says_what_to_do(page: str, least: int) -> None:
    found = sections(page)

    assert len(found) > least
    assert [title for title, text in found.items() if not re.search(r"^- ", text, re.MULTILINE)] == []


def test_the_checklist_has_lines_of_check_for_every_item() -> None:
    rows = re.findall(r"^\| ([\w ]+) \| (\[.*?) \| ", sections(PAGES["production.md"])["Checklist"], re.MULTILINE)
    named = {name for _, lines in rows for name in re.findall(r"\[(\w+)\]\(checks\.md#\1\)", lines)}
    shown = {
        title for title, text in sections(CHECKS).items() if text.startswith(("\nIn both. ", "\nIn `tiercel check`"))
    }

    assert {item for item, _ in rows} >= {
        "environment",
        "database",
        "static files",
        "cache",
        "monitoring and alerts",
        "backups",
        "TLS",
        "rate limiting",
    }
    assert named <= shown


def commands() -> Iterator[tuple[str, str]]:
    """List the commands of the pages, with the page."""
    for name, page in PAGES.items():
        without_output = re.sub(r"^```(?!sh).*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
        for command in _COMMAND.findall(without_output):
            yield name, command.strip()


def test_every_command_of_the_pages_exists_with_its_options(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("commands"))
    monkeypatch.setenv("TIERCEL_DATABASE_URL", f"postgresql://{NOWHERE.replace('host=', '').replace(' port=', ':')}/")
    context = click.Context(root)
    found = list(commands())

    wrong = [f"{page}: {problem}" for page, text in found if (problem := find_problem(context, text))]

    assert len(found) > 40
    assert wrong == []


def find_problem(context: click.Context, text: str) -> str | None:
    """Return what is wrong with a command; values of options and arguments are not looked at."""
    command: click.Command | None = root
    words = text.split()
    while words and isinstance(command, click.Group) and (not words[0].startswith("-") or hasattr(command, "default")):
        # Some groups have a command that need not be named.
        default = getattr(command, "default", "")
        found = command.get_command(context, words[0])
        command = found or command.get_command(context, default)
        words = words[1:] if found else words
    if command is None:
        return f"tiercel {text}: no such command"
    if command.context_settings.get("ignore_unknown_options"):
        return None  # they are those of another program
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    unknown = given - known - {"--help", "-h"}
    return f"tiercel {text}: no option {', '.join(sorted(unknown))}" if unknown else None


def test_every_statement_of_the_manual_can_be_run(database: str) -> None:
    statements = [statement for page in (ALERTS, CHECKS, TROUBLESHOOTING) for statement in blocks(page, "sql")]

    assert len(statements) >= 4
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in statements:
            assert connection.execute(statement.encode()).fetchall()


def test_every_metric_of_the_manual_is_documented() -> None:
    named = {name for page in (ALERTS, CHECKS, TROUBLESHOOTING) for name in re.findall(r"\btiercel_[a-z_]+\b", page)}

    assert named
    assert [name for name in sorted(named) if f"`{name}`" not in PAGES["monitoring.md"]] == []


def test_every_panel_that_is_named_is_on_the_dashboard() -> None:
    dashboard = (ROOT / "contrib" / "grafana" / "dashboards" / "tiercel.json").read_text()
    named = re.findall(r"panel \*([^*]+)\*", ALERTS)

    assert len(named) >= 2
    assert [name for name in named if f'"title": "{name}"' not in dashboard] == []


def test_the_record_of_a_backup_is_what_check_reads() -> None:
    (example,) = blocks(CHECKS, "json")

    assert msgspec.json.decode(example, type=LastBackup).kind == "dump"
