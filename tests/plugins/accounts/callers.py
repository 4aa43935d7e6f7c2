"""Those who send requests with a key of an account, to a service whose plugin has jobs and datasets of accounts."""

from __future__ import annotations

from typing import Any

from kernel.identity import Scope
from kernel.testing import Client, Result
from tests.plugins.accounts.factories import create_key, with_key

JOBS = "/api/v1/jobs/"
NOTES = "/owned/public/notes/"
OWNED = ["system", "accounts", "tests.owned"]


class Caller:
    """Sends requests with a key of an account."""

    def __init__(self, client: Client, account: int, *scopes: Scope, **fields: Any) -> None:
        self.account = account
        self._client = client
        self.headers = with_key(create_key(client, *(scopes or ("read", "write")), account=account, **fields))

    def get(self, path: str, **more: str) -> Result:
        return self._client.get(path, headers=self.headers | more)

    def post(self, path: str, json: Any = None, **more: str) -> Result:
        return self._client.post(path, json, headers=self.headers | more)

    def start(self, name: str, **parameters: Any) -> Any:
        """Start a job that must be new."""
        answer = self.post(JOBS, {"name": name, "parameters": parameters})
        assert answer.status == 202, answer.content
        return answer.json()["data"]

    def ids(self, query: str = "") -> list[int]:
        """Return the ids of the jobs that it sees."""
        return [each["id"] for each in self.get(JOBS + query).json()["data"]["results"]]

    def publish(self, **texts: str) -> str:
        """Publish notes of its account; return the outcome."""
        answer = self.post("/owned/publish/", texts)
        assert answer.status == 200, answer.content
        return str(answer.json())

    def texts(self, query: str = "") -> dict[str, str]:
        """Return the notes that it sees."""
        answer = self.get(NOTES + query)
        assert answer.status == 200, answer.content
        return {note["slug"]: note["text"] for note in answer.json()["data"]}
