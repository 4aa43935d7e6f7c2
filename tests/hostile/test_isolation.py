"""Requests of everybody to everything, at random: nobody sees or changes what is another account's.

``TIERCEL_TEST_ISOLATION_REQUESTS`` sets how many, ``TIERCEL_TEST_ISOLATION_SEED`` which; ``make soak`` sends
a million.
"""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import pytest
from psycopg import sql

from kernel.settings import DEFAULT_RATES
from tests.conftest import Serve
from tests.hostile.isolation_requests import Requests
from tests.hostile.isolation_world import BYSTANDER, World

pytestmark = pytest.mark.slow

REQUESTS = int(os.environ.get("TIERCEL_TEST_ISOLATION_REQUESTS", "100000"))
SEED = int(os.environ.get("TIERCEL_TEST_ISOLATION_SEED", "20261128"))
# Each in a process of its own, where there are several; and none so long that it would pass for one that hangs.
PARTS = 4
PLUGINS = ["system", "accounts", "observability", "trace", "club", "skyflow", "nexus", "contrib.planner", "tests.owned"]
# What reading changes: when something was used last, what a request took that asked for that, and that staff has read.
_CHANGED_BY_READING = {"used_at", "last_used_at", "seen_at"}
_TABLES_CHANGED_BY_READING = {"tiercel.usage", "tiercel.tracked_request", "tiercel.audit_entry", "tiercel.audit_chain"}


def fingerprints(world: World, account: int) -> dict[str, Any]:
    """Return number and hash of an account's rows in each table that has an account."""
    found: dict[str, Any] = {}
    with world.client.service.db.connection() as connection:
        tables = connection.execute(
            "SELECT nspname, relname, array_agg(attname ORDER BY attname) FROM pg_class"
            " JOIN pg_namespace ON pg_namespace.oid = relnamespace JOIN pg_attribute ON attrelid = pg_class.oid"
            " WHERE relkind IN ('r', 'p') AND NOT relispartition AND attnum > 0 AND NOT attisdropped"
            " AND nspname NOT IN ('pg_catalog', 'information_schema')"
            " GROUP BY nspname, relname"
            " HAVING 'account' = ANY (array_agg(attname)) OR (nspname, relname) = ('accounts', 'account')"
        ).fetchall()
        for schema, table, columns in tables:
            if f"{schema}.{table}" in _TABLES_CHANGED_BY_READING:
                continue
            kept = [sql.Identifier(name) for name in columns if name not in _CHANGED_BY_READING]
            owner = "account" if "account" in columns else "id"
            statement = sql.SQL(
                "SELECT count(*), md5(string_agg(shown, '|' ORDER BY shown))"
                " FROM (SELECT row({})::text AS shown FROM {} WHERE {} = {}) AS rows"
            ).format(
                sql.SQL(", ").join(kept), sql.Identifier(schema, table), sql.Identifier(owner), sql.Literal(account)
            )
            found[f"{schema}.{table}"] = connection.execute(statement).fetchone()
    return found


@pytest.mark.parametrize("part", range(PARTS))
def test_nobody_sees_or_changes_what_is_another_accounts(serve: Serve, part: int) -> None:
    client = serve(
        auth="required",
        plugins=PLUGINS,
        http={"trusted_proxies": ["unix"]},
        accounts={"access_token_s": 86400},
        # Who is throttled depends on how fast this machine is.
        throttle={"rates": dict.fromkeys(DEFAULT_RATES, "unlimited")},
    )
    world = World(client)
    bystander = next(account for account in world.accounts if account.name == BYSTANDER)
    before = fingerprints(world, bystander.number)
    assert sum(count > 0 for count, _ in before.values()) >= 10
    requests = Requests(world, client.service.shared.routes, SEED + part)

    requests.run(REQUESTS // PARTS)

    print(requests.report())
    problems = Counter(finding.problem for finding in requests.findings)
    examples = {finding.problem: finding for finding in requests.findings}
    listed = "\n".join(f"{count} x {examples[problem]}" for problem, count in problems.most_common(60))
    assert not problems, f"seed {SEED + part}: {len(problems)} problems\n{listed}\n{requests.report()}"
    assert fingerprints(world, bystander.number) == before
    # It is of no use if nothing gets through.
    statuses = sum(requests.statuses.values(), Counter[int]())
    assert statuses[200] > sum(statuses.values()) / 5
    unreached = requests.routes - set(requests.let_in)
    if REQUESTS // PARTS >= 25_000:
        assert not unreached
