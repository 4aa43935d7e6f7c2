"""The query of a dataset route: fields, search, ordering, ``as_of``, paging, ``include``, and how each is applied."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, cast

import msgspec

from kernel.contracts import Dataset
from kernel.conversion import base_type, field_types, is_sequence, parse_time
from kernel.datasets.views import HIDDEN_NAMED_MAX, View
from kernel.errors import InvalidError
from kernel.http.lists import ListQuery, is_scalar, ordering_schema
from kernel.http.pagination import count_pages, page_not_found, page_size_of

_DATE_LENGTH = len("2026-11-21")
_INCLUDE = "include"


class DatasetQuery(ListQuery, frozen=True):
    """Parameters that every dataset route takes, besides the fields of its items.

    Args:
        search: Items with this text in any of their text fields, ignoring case.
        ordering: Fields separated by commas; a leading ``-`` sorts descending.
        page: Number of a page, from 1; without it and without ``page_size`` all items are returned.
        page_size: Items per page.
        as_of: A version, or a time; a date alone is the end of that day, UTC.
        explain: Report how many items each filter of the application hid, and which.
    """

    as_of: str = ""
    explain: bool = False
    # A parameter only where items have relations: the fields whose keys are replaced by the related items.
    include: ClassVar[tuple[str, ...]] = ()
    reserved: ClassVar[frozenset[str]] = ListQuery.reserved | {"as_of", "explain", _INCLUDE}


@cache
def query_struct(item: type[msgspec.Struct], includable: tuple[str, ...] = ()) -> type[DatasetQuery]:
    """Return the Struct of the parameters of a route: the common ones, and the scalar fields of its items.

    The parameter of a field that holds a list is one of its members.

    Args:
        item: The Struct of the items.
        includable: The fields that ``include`` accepts; without any there is no such parameter.
    """
    sortable = [name for name, annotation in field_types(item).items() if is_scalar(base_type(annotation))]
    schema = ordering_schema(sortable) if sortable else {}
    fields: list[tuple[str, Any, Any]] = [
        ("ordering", Annotated[str, msgspec.Meta(extra_json_schema=schema)], ""),
    ]
    for name, annotation in field_types(item).items():
        kind = base_type(annotation)
        if is_sequence(annotation):
            kind = base_type(typing.get_args(kind)[0])
        if name in DatasetQuery.reserved or not is_scalar(kind):
            continue
        # UNSET and not None by default: the text "null" is converted to None.
        fields.append((name, typing.Union[kind, msgspec.UnsetType], msgspec.UNSET))  # noqa: UP007
    if includable:
        choice: Any = Literal
        fields.append((_INCLUDE, tuple[choice[includable], ...], ()))
    made: Any = msgspec.defstruct(f"{item.__name__}Query", fields, bases=(DatasetQuery,), frozen=True)
    return cast("type[DatasetQuery]", made)


def parse_as_of(text: str, parameter: str = "as_of") -> int | datetime:
    """Parse a version, or a time; a date alone is the end of that day, UTC.

    Args:
        text: As a client sent it.
        parameter: Name of the parameter, for the error.

    Raises:
        InvalidError: It is neither a version nor a time.
    """
    if text.isascii() and text.isdigit() and len(text) <= 18:
        return int(text)
    try:
        time = parse_time(text)
        return time + timedelta(days=1, microseconds=-1) if len(text.strip()) == _DATE_LENGTH else time
    except (ValueError, OverflowError):
        message = f"Expected a version or an ISO 8601 date or time, got {text!r:.80}."
        raise InvalidError(errors={parameter: [message]}) from None


# --- paging ---------------------------------------------------------------------------------------------------------


class PageNumbers(msgspec.Struct, frozen=True):
    """Which page of how many."""

    page: int
    page_size: int
    pages: int


def paginate(
    items: Sequence[Any], query: DatasetQuery, page_size: int, page_size_max: int
) -> tuple[Sequence[Any], PageNumbers | None]:
    """Return the page of items that a query asks for, if it asks for one.

    Args:
        items: All items.
        query: The query.
        page_size: Items per page, unless the query says.
        page_size_max: The most that a query may say.

    Raises:
        InvalidError: The page is larger than allowed.
        NotFoundError: It is beyond the last.
    """
    if query.page is None and query.page_size is None:
        return items, None
    page, size = query.page or 1, page_size_of(query.page_size, page_size, page_size_max)
    pages = count_pages(len(items), size)
    if page > pages:
        raise page_not_found(page, pages)
    return items[(page - 1) * size : page * size], PageNumbers(page, size, pages)


@cache
def shown_struct(item: type[msgspec.Struct], includable: tuple[str, ...]) -> type[msgspec.Struct]:
    """Return the Struct of items as a route shows them, for its description: keys, or the items that these identify.

    Args:
        item: The Struct of the items.
        includable: The fields that ``include`` accepts.
    """
    if not includable:
        return item
    related: Any = dict[str, Any]
    shown: list[tuple[str, Any, Any]] = []
    for field in msgspec.structs.fields(item):
        if field.name in includable:
            kind: Any = tuple[str | related, ...] if is_sequence(field.type) else str | related | None
            # Keys are given by the items themselves: a default only says whether there must be one.
            shown.append((field.name, kind, msgspec.NODEFAULT if field.required else msgspec.UNSET))
    namespace = {"__doc__": item.__doc__}
    return msgspec.defstruct(
        item.__name__, shown, bases=(item,), namespace=namespace, module=item.__module__, kw_only=True
    )


# --- include --------------------------------------------------------------------------------------------------------


class Included(msgspec.Struct, frozen=True):
    """How the keys in a field were replaced by items, each key counted once.

    Args:
        items: Keys that were replaced.
        missing: Keys of no item; they are left out.
        hidden: Keys of items that the application does not see; they are left out.
        missing_keys: The first of the missing keys; only with ``explain``.
        hidden_keys: The first of the hidden keys; only with ``explain``.
    """

    items: int
    missing: int
    hidden: int
    missing_keys: Sequence[str] | msgspec.UnsetType = msgspec.UNSET
    hidden_keys: Sequence[str] | msgspec.UnsetType = msgspec.UNSET


def relations_in(dataset: Dataset, shown: type[msgspec.Struct]) -> dict[str, str]:
    """Return the relations of a dataset whose fields a Struct still has, with the same types.

    Args:
        dataset: The dataset.
        shown: The Struct of its items, or the one that a derivation makes of them.

    Returns:
        Names of the related datasets, by field.
    """
    before, after = field_types(dataset.item), field_types(shown)
    return {field: name for field, name in dataset.relations.items() if before.get(field, str) == after.get(field)}


def include_related(
    items: Sequence[msgspec.Struct], related: Mapping[str, View], *, explain: bool
) -> tuple[list[dict[str, Any]], dict[str, Included]]:
    """Replace keys by the items that they identify.

    Args:
        items: Items that hold keys.
        related: By field, the view with the related items.
        explain: Name the keys that are left out.

    Returns:
        The items as they are encoded, and by field how its keys were replaced.
    """
    encoded = [msgspec.to_builtins(item, enc_hook=str) for item in items]
    return encoded, {field: _include(items, encoded, field, view, explain=explain) for field, view in related.items()}


def _include(
    items: Sequence[msgspec.Struct], encoded: Sequence[dict[str, Any]], field: str, view: View, *, explain: bool
) -> Included:
    seen = _by_key(view.dataset, view.items)
    keys: dict[str, None] = {}
    for item, members in zip(items, encoded, strict=True):
        held = getattr(item, field)
        name = item.__struct_encode_fields__[item.__struct_fields__.index(field)]
        if held is None or isinstance(held, str):
            members[name] = seen.get(held)
            # An empty text is not a key.
            held = (held,) if held else ()
        else:
            members[name] = [seen[key] for key in held if key in seen]
        keys.update(dict.fromkeys(held))
    existing = _by_key(view.dataset, view.snapshot.items)
    missing = [key for key in keys if key not in existing]
    hidden = [key for key in keys if key in existing and key not in seen]
    included = Included(len(keys) - len(missing) - len(hidden), len(missing), len(hidden))
    if not explain:
        return included
    return msgspec.structs.replace(
        included, missing_keys=missing[:HIDDEN_NAMED_MAX], hidden_keys=hidden[:HIDDEN_NAMED_MAX]
    )


def _by_key(dataset: Dataset, items: Sequence[Any]) -> dict[str | None, Any]:
    return {getattr(item, dataset.key): item for item in items}
