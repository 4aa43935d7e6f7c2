"""Fetch one source: its pages, one after the other, and the items on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import msgspec

from plugins.club.fetching.outcome import FetchError, PageValidator, Rejected, Validators
from plugins.club.fetching.pages import decode_page, items_at, next_page
from plugins.club.fetching.requests import Answer, Requests
from plugins.club.fetching.retries import Retries
from plugins.club.mapping import BadItemError, Mapper
from plugins.club.model import Item
from plugins.club.settings import Source


def fingerprint(source: Source) -> str:
    """Return a hash of a source's configuration."""
    return hashlib.sha256(msgspec.json.encode(source, order="sorted")).hexdigest()


class Harvest:
    """What a source has given so far.

    Args:
        mapper: Makes items.
    """

    def __init__(self, mapper: Mapper) -> None:
        self._mapper = mapper
        self.items: dict[str, Item] = {}
        self.rejected: list[Rejected] = []
        self.validators: list[PageValidator | None] = []
        self.bytes = 0

    def add(self, raws: list[Any], answer: Answer) -> None:
        """Take a page in."""
        first = len(self.items) + len(self.rejected)
        for index, raw in enumerate(raws, first):
            try:
                item = self._mapper.make(raw)
            except BadItemError as ex:
                self.rejected.append(Rejected(index=index, reason=str(ex), raw=raw))
                continue
            if item.key in self.items:
                reason = f"{item.key!r:.80} stands further up already"
                self.rejected.append(Rejected(index=index, reason=reason, raw=raw))
            else:
                self.items[item.key] = item
        self.validators.append(answer.validator)
        self.bytes += len(answer.body or b"")


class SourceFetcher:
    """Fetches one source.

    Args:
        source: Its configuration.
        requests: Sends requests, once each.
        retries: Sends them again.
        max_pages: How many pages there may be.
        report: Told after every page: good items and bytes so far.
    """

    def __init__(
        self,
        source: Source,
        requests: Requests,
        retries: Retries,
        max_pages: int,
        report: Callable[[int, int], None],
    ) -> None:
        self._source = source
        self._requests = requests
        self._retries = retries
        self._max_pages = max_pages
        self._report = report
        self._fingerprint = fingerprint(source)

    async def run(self, validators: Validators | None) -> Harvest | Validators:
        """Fetch every page; if nothing has changed, the validators come back.

        Raises:
            FetchError: A page could not be had, or is not what the configuration expects.
        """
        url = httpx.URL(self._source.url)
        if validators is None or validators.fingerprint != self._fingerprint or not validators.pages:
            return await self._harvest(await self._get(url))
        first = await self._if_changed(url, validators.pages)
        return validators if first is None else await self._harvest(first)

    def validators(self, harvest: Harvest) -> Validators | None:
        """Return what to ask with the next time; None if some page has no validator."""
        pages = tuple(page for page in harvest.validators if page is not None)
        complete = len(pages) == len(harvest.validators)
        return Validators(fingerprint=self._fingerprint, pages=pages) if complete else None

    async def _if_changed(self, url: httpx.URL, known: Sequence[PageValidator]) -> Answer | None:
        """Return the first page, or None if that and all others are as they were."""
        answer = await self._get(url, known[0])
        if answer.body is not None:
            return answer
        for page in known[1:]:
            if (await self._get(httpx.URL(page.url), page)).body is not None:
                # The pages before it were not sent, and are needed with it.
                return await self._get(url)
        return None

    async def _harvest(self, first: Answer) -> Harvest:
        harvest = Harvest(Mapper(self._source.dataset, self._source.mapping, self._source.feature))
        seen = {httpx.URL(self._source.url)}
        answer = first
        while True:
            document = decode_page(answer.body or b"")
            harvest.add(items_at(document, self._source.items), answer)
            self._report(len(harvest.items), harvest.bytes)
            url = next_page(document, self._source.next, answer.url)
            if url is None:
                return harvest
            if url in seen:
                raise FetchError("content", "the pages go in a circle")
            if len(seen) >= self._max_pages:
                raise FetchError("too-large", f"there are more than {self._max_pages} pages")
            seen.add(url)
            answer = await self._get(url)

    async def _get(self, url: httpx.URL, known: PageValidator | None = None) -> Answer:
        return await self._retries.run(lambda: self._requests.get(url, known))
