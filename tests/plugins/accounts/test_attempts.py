"""Guessing passwords: slowed down, without locking anybody out, and without telling who is a user."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from kernel.errors import TooManyRequestsError, UnavailableError
from kernel.testing import Client
from plugins.accounts.sign_in.attempts import OF_ACCOUNT, OF_ADDRESS, OF_PAIR, Attempts
from plugins.accounts.sign_in.passwords import Passwords
from tests.conftest import service_starter
from tests.plugins.accounts.factories import TestUser, accounts_of, basic, create_user, sign_in
from tests.plugins.accounts.test_tokens import Clock

HOME, ELSEWHERE = "203.0.113.1", "203.0.113.2"


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def client(module_database: str, clock: Clock) -> Iterator[Client]:
    """A service that believes a proxy where requests come from."""
    with service_starter({"url": module_database}) as start:
        yield start(clock=clock, auth="required", http={"trusted_proxies": ["unix"]})


@pytest.fixture
def attempts(client: Client, clock: Clock) -> Attempts:
    """Counters without a past."""
    clock.offset = timedelta(0)
    with client.service.db.connection() as connection:
        connection.execute("TRUNCATE accounts.sign_in_attempt, accounts.known_address")
    return accounts_of(client).sign_in.attempts


def waits(attempts: Attempts, address: str, email: str) -> int:
    """Count a failure; return how many seconds it would have to wait, 0 if it was counted."""
    try:
        attempts.begin(address, email)
    except TooManyRequestsError as ex:
        return int(ex.headers["Retry-After"])
    return 0


def create_attacked_user(client: Client, attempts: Attempts) -> TestUser:
    """Create a user who has signed in from home, and whose password was tried from as many addresses as are free."""
    user = create_user(client)
    assert sign_in(client, user, address=HOME).status == 200
    for number in range(OF_ACCOUNT.free + 1):
        attempts.begin(f"198.51.100.{number}", user.email)
    return user


def test_waits_of_an_address_and_an_account_double_up_to_a_quarter_of_an_hour(attempts: Attempts, clock: Clock) -> None:
    for _ in range(OF_PAIR.free):
        assert waits(attempts, HOME, "ann") == 0
    asked = []
    for _ in range(12):
        assert waits(attempts, HOME, "ann") == 0
        asked.append(waits(attempts, HOME, "ann"))
        clock.offset += timedelta(seconds=asked[-1])

    assert asked == [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]
    assert waits(attempts, HOME, "bob") == 0
    assert waits(attempts, ELSEWHERE, "ann") == 0


def test_counters_forget(attempts: Attempts, clock: Clock) -> None:
    for _ in range(OF_PAIR.free + 1):
        attempts.begin(HOME, "ann")

    clock.offset += timedelta(hours=1, seconds=1)

    assert [waits(attempts, HOME, "ann") for _ in range(OF_PAIR.free + 1)] == [0] * (OF_PAIR.free + 1)


def test_an_address_that_tries_many_accounts_has_to_wait(attempts: Attempts) -> None:
    asked = [waits(attempts, HOME, f"user{number}") for number in range(OF_ADDRESS.free + 2)]

    assert asked == [0] * (OF_ADDRESS.free + 1) + [2]


def test_many_addresses_that_try_one_account_have_to_wait_and_its_user_has_not(
    client: Client, attempts: Attempts
) -> None:
    user = create_attacked_user(client, attempts)

    stranger = sign_in(client, user, address=ELSEWHERE)

    assert (stranger.status, stranger.json()["code"], stranger.headers["retry-after"]) == (
        429,
        "too_many_requests",
        "2",
    )
    assert sign_in(client, user, address=HOME).status == 200


def test_users_who_signed_in_from_an_address_need_not_wait_for_what_others_try_from_there(
    client: Client, attempts: Attempts
) -> None:
    user, newcomer = create_user(client), create_user(client)
    assert sign_in(client, user, address=HOME).status == 200
    for number in range(OF_ADDRESS.free + 1):
        attempts.begin(HOME, f"user{number}")

    answers = [sign_in(client, each, address=HOME).status for each in (newcomer, user, user)]

    assert answers == [429, 200, 200]
    # The address has not become better by that.
    assert waits(attempts, HOME, "bob") > 0


def test_users_who_sign_in_meanwhile_leave_those_waiting_that_guess_their_passwords(
    client: Client, attempts: Attempts
) -> None:
    user = create_attacked_user(client, attempts)

    for _ in range(3):
        assert sign_in(client, user, address=HOME).status == 200

    assert waits(attempts, ELSEWHERE, user.email) > 0


def test_attempts_whose_clock_is_behind_that_of_the_last_one_are_not_slowed_down(
    attempts: Attempts, clock: Clock
) -> None:
    """Machines differ by seconds; and of two requests, the one that came first may be counted second."""
    attempts.withdraw(attempts.begin(HOME, "ann"))
    attempts.begin(HOME, "ann")

    clock.offset -= timedelta(minutes=1)

    assert waits(attempts, HOME, "ann") == 0


def test_an_error_while_a_password_is_checked_is_no_failure(client: Client, attempts: Attempts) -> None:
    user = create_user(client)
    with client.service.db.connection() as connection:
        connection.execute('ALTER TABLE accounts."user" RENAME TO away')
        try:
            answers = {sign_in(client, user, address=HOME).status for _ in range(OF_PAIR.free * 2)}
        finally:
            connection.execute('ALTER TABLE accounts.away RENAME TO "user"')

    assert all(status >= 500 for status in answers)
    assert sign_in(client, user, address=HOME).status == 200


def test_the_longest_wait_for_an_account_is_half_a_minute(attempts: Attempts, clock: Clock) -> None:
    for number in range(OF_ACCOUNT.free + 12):
        while wait_s := waits(attempts, f"198.51.100.{number}", "ann"):
            assert wait_s <= 30
            clock.offset += timedelta(seconds=wait_s)


def test_an_attempt_that_succeeds_is_no_failure(attempts: Attempts) -> None:
    for _ in range(OF_ACCOUNT.free * 2):
        attempts.succeed(attempts.begin(HOME, "ann"))

    assert waits(attempts, HOME, "ann") == 0


def test_an_attempt_that_was_not_made_is_no_failure(attempts: Attempts) -> None:
    for _ in range(OF_PAIR.free * 4):
        attempts.withdraw(attempts.begin(HOME, "ann"))

    assert waits(attempts, HOME, "ann") == 0


def test_attempts_at_the_same_time_do_not_all_pass(attempts: Attempts) -> None:
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(waits(attempts, HOME, "ann"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert results.count(0) == OF_PAIR.free + 1


def test_a_wait_is_answered_at_once_and_not_even_the_right_password_passes(client: Client, attempts: Attempts) -> None:
    user = create_user(client)
    for _ in range(OF_PAIR.free + 1):
        assert sign_in(client, user, address=HOME, password="wrong").status == 401

    started = time.monotonic()
    answers = [sign_in(client, user, address=HOME), client.get("/api/v1/auth/me/", headers=with_address(user))]

    assert [answer.status for answer in answers] == [429, 429]
    assert time.monotonic() - started < 1


def with_address(user: TestUser) -> dict[str, str]:
    return {**basic(user), "X-Forwarded-For": HOME}


def test_counters_are_few_however_many_try(client: Client, attempts: Attempts, clock: Clock) -> None:
    with client.service.db.connection() as connection:
        connection.execute(
            "INSERT INTO accounts.sign_in_attempt"
            " SELECT sha256(n::text::bytea), 1, now(), now() FROM generate_series(1, 100500) AS n"
        )
        connection.execute("INSERT INTO accounts.sign_in_attempt VALUES ('\\x00', 99, now(), now())")

        attempts.tidy()
        left = connection.execute("SELECT count(*), max(failures) FROM accounts.sign_in_attempt").fetchone()
        clock.offset = timedelta(hours=2)
        attempts.tidy()
        later = connection.execute("SELECT count(*) FROM accounts.sign_in_attempt").fetchone()

    # Those that have failed most are the last to go.
    assert left == (100_000, 99)
    assert later == (0,)


# --- who is a user ----------------------------------------------------------------------------------------------------


def test_words_do_not_tell_who_is_a_user(client: Client, attempts: Attempts) -> None:
    user, inactive = create_user(client), create_user(client)
    with client.service.db.connection() as connection:
        connection.execute("UPDATE accounts.user SET is_active = false WHERE id = %s", [inactive.id])
    tried = [
        (user.email, "wrong"),
        (inactive.email, inactive.password),
        ("nobody@example.com", "wrong"),
        ("no address", "wrong"),
        ("", ""),
        ("a\0b@example.com", "wrong"),
        ("x" * 5000, "y" * 5000),
    ]

    answers = [sign_in(client, user, address=HOME, email=email, password=password) for email, password in tried]

    bodies = [{**answer.json(), "request_id": ""} for answer in answers]
    assert {answer.status for answer in answers} == {401}
    assert all(body == bodies[0] for body in bodies)
    assert bodies[0]["detail"] == "the e-mail address or the password is wrong"


def test_time_does_not_tell_who_is_a_user(client: Client, attempts: Attempts) -> None:
    """Compare medians of requests that alternate: without a hash for nobody, they would differ by a factor of ten."""
    user = create_user(client)
    nobody = TestUser(0, "nobody@example.com", "")
    spent: dict[str, list[float]] = {user.email: [], nobody.email: []}
    for number in range(20):
        for each in (user, nobody):
            started = time.perf_counter()
            answer = sign_in(client, each, address=f"198.51.100.{number}", password="wrong")
            spent[each.email].append(time.perf_counter() - started)
            assert answer.status == 401

    known, unknown = (statistics.median(times) for times in spent.values())

    assert 0.5 < unknown / known < 2


def test_a_request_for_a_reset_does_the_same_for_everybody(client: Client, attempts: Attempts) -> None:
    user = create_user(client)
    emails = [user.email, "nobody@example.com", "no address"]

    answers = [client.post("/api/v1/auth/reset/", {"email": email}) for email in emails]

    assert [answer.status for answer in answers] == [202, 202, 202]
    assert len({answer.json()["data"]["message"] for answer in answers}) == 1
    assert len(client.service.shared.jobs.list(name="accounts.send_reset")) == 3


# --- hashing ----------------------------------------------------------------------------------------------------------


def test_few_passwords_are_hashed_at_the_same_time_and_others_are_told_at_once() -> None:
    passwords = Passwords(length_min=12, hashes_max=1)
    stored = passwords.hash("x")
    outcomes: list[str] = []
    begin = threading.Barrier(8)

    def verify() -> None:
        begin.wait()
        try:
            outcomes.append("hashed" if passwords.verify("x", stored) else "wrong")
        except UnavailableError as ex:
            outcomes.append(f"busy {ex.headers['Retry-After']}")

    threads = [threading.Thread(target=verify) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert set(outcomes) == {"hashed", "busy 1"}
    assert passwords.verify("x", stored)


def test_basic_hashes_once_for_many_requests(client: Client, attempts: Attempts) -> None:
    user = create_user(client)
    started = time.perf_counter()
    answers = [client.get("/api/v1/auth/me/", headers=basic(user)).status for _ in range(100)]

    assert set(answers) == {200}
    # A hundred hashes take three seconds, on a machine that has nothing else to do.
    assert time.perf_counter() - started < 2
    with client.service.db.connection() as connection:
        assert connection.execute("SELECT count(*) FROM accounts.known_address").fetchone() == (1,)


def test_what_is_remembered_for_basic_holds_no_password(client: Client, attempts: Attempts) -> None:
    user = create_user(client)
    client.get("/api/v1/auth/me/", headers=basic(user))

    remembered = repr(client.service.shared.cache._caches["accounts.basic"].__dict__)

    assert user.password not in remembered
    assert user.email not in remembered


def test_nothing_that_was_entered_is_stored_by_the_counters(client: Client, attempts: Attempts) -> None:
    attempts.begin(HOME, "a password that was entered for an address")

    with client.service.db.connection() as connection:
        rows = connection.execute("SELECT key, failed_at FROM accounts.sign_in_attempt").fetchall()

    assert {len(key) for key, _ in rows} == {32}
    assert all(abs(failed_at - datetime.now(UTC)) < timedelta(minutes=1) for _, failed_at in rows)
