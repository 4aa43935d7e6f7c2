"""Who may read ``/metrics`` in mode ``required``, and what is counted of credentials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kernel.testing import Client, Result
from tests.conftest import Serve
from tests.plugins.accounts.factories import create_key, create_user, sign_in, with_key

TOKEN = "0123456789abcdef-of-metrics"


def lines(answer: Result) -> list[str]:
    """Return the lines of an answer."""
    return answer.content.decode().splitlines()


def test_a_key_of_staff_reads_metrics_and_no_other_does(client: Client) -> None:
    nobody = client.get("/metrics")
    reader = client.get("/metrics", headers=with_key(create_key(client, "read")))
    staff = client.get("/metrics", headers=with_key(create_key(client, "staff")))

    assert (nobody.status, reader.status, staff.status) == (401, 403, 200)
    assert "tiercel_build_info" in staff.content.decode()


def test_what_is_wrong_with_credentials_is_counted(serve: Serve, tmp_path: Path) -> None:
    # What other services of this process count is in the home that they share.
    own_client = serve(auth="required", home=str(tmp_path / "home"))
    user = create_user(own_client)
    own_client.get("/api/requests/", headers={"Authorization": "Api-Key nonsense"})
    own_client.post("/api/v1/auth/sign-in/", {"email": user.email, "password": "wrong"})
    sign_in(own_client, user)

    found = lines(own_client.get("/metrics", headers=with_key(create_key(own_client, "staff"))))
    assert "tiercel_accounts_credentials_refused_total 1.0" in found
    assert 'tiercel_accounts_password_checks_total{outcome="wrong"} 1.0' in found
    assert 'tiercel_accounts_password_checks_total{outcome="right"} 1.0' in found
    assert 'tiercel_throttle_requests_total{outcome="allowed",scope="auth"} 2.0' in found
    # What tells one caller from another is nowhere.
    assert user.email not in "\n".join(found)


@pytest.mark.parametrize(
    ("settings", "statuses"),
    [
        (
            {"token": TOKEN},
            {f"Bearer {TOKEN}": 200, f"Api-Key {TOKEN}": 200, f"Basic {TOKEN}": 401, f"Bearer {TOKEN}x": 401},
        ),
        ({"token": TOKEN, "public": True}, {"": 200}),
        ({"public": True}, {"": 200, "Bearer nonsense": 200}),
    ],
)
def test_a_token_or_the_setting_public_needs_no_account(
    module_serve: Serve, settings: dict[str, Any], statuses: dict[str, int]
) -> None:
    client = module_serve(auth="required", metrics=settings)

    for authorization, status in statuses.items():
        answer = client.get("/metrics", headers={"Authorization": authorization} if authorization else {})
        assert answer.status == status, authorization
        assert status == 200 or answer.headers["www-authenticate"].startswith("Bearer")
    # What is public needs nothing, and what is not public tells nobody anything.
    assert client.get("/metrics").status == (200 if settings.get("public") else 401)
