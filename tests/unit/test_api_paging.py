from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import ClientError
from api.paging import LIMIT_MAX, PageRequest, list_of, list_stored, read_page, unlisted_bytes
from shared.hosted_tools import WebSearchCall
from shared.input_items import InputItem, InputMessage


def items_of(*item_ids: object) -> list[InputItem]:
    return [InputMessage(id=str(item_id), role="user", content=f"text {item_id}") for item_id in item_ids]


def ids_of(listed: dict[str, Any]) -> list[str]:
    return [item.id for item in listed["data"]]


def test_a_query_that_says_nothing_asks_for_the_twenty_newest() -> None:
    listed = read_page([]).cut(items_of(*range(30)))
    assert ids_of(listed) == [str(number) for number in range(29, 9, -1)]
    assert (listed["object"], listed["first_id"], listed["last_id"]) == ("list", "29", "10")
    assert listed["has_more"] is True


def test_an_empty_list_has_neither_a_first_nor_a_last() -> None:
    assert read_page([]).cut([]) == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


def test_a_list_is_returned_in_the_order_given() -> None:
    listed = list_of(items_of("b", "a"))
    assert ids_of(listed) == ["b", "a"]
    assert (listed["first_id"], listed["last_id"], listed["has_more"]) == ("b", "a", False)


def test_an_empty_cursor_is_none() -> None:
    assert read_page([("after", "")]) == PageRequest()


@pytest.mark.parametrize(
    ("query", "param"),
    [
        *[
            ({"limit": limit}, "limit")
            for limit in ("0", "-1", "101", "ten", "", "1.5", "1e1", " 5", "٣", "9" * 99)
        ],
        *[({"order": order}, "order") for order in ("", "ASC", "newest")],
    ],
)
def test_a_bad_query_is_refused_by_name(query: dict[str, str], param: str) -> None:
    with pytest.raises(ClientError) as refused:
        read_page(list(query.items()))
    assert (refused.value.status, refused.value.code, refused.value.param) == (400, "invalid_value", param)


@pytest.mark.parametrize("name", ["after", "limit", "order"])
def test_a_query_that_says_something_twice_is_refused_by_name(name: str) -> None:
    with pytest.raises(ClientError) as refused:
        read_page([(name, "1"), (name, "1"), ("include", "a"), ("include", "b")])
    assert (refused.value.status, refused.value.param) == (400, name)


@pytest.mark.parametrize("limit", [1, LIMIT_MAX])
def test_the_bounds_of_the_limit_are_within(limit: int) -> None:
    assert read_page([("limit", str(limit))]).limit == limit


def test_a_cursor_that_the_list_does_not_hold_is_refused() -> None:
    with pytest.raises(ClientError) as refused:
        PageRequest(after="c").cut(items_of("a", "b"))
    assert (refused.value.status, refused.value.param) == (404, "after")


@given(
    st.lists(st.integers(0, 40), max_size=30),
    st.integers(1, 7),
    st.sampled_from(["asc", "desc"]),
)
def test_who_pages_sees_every_item_once_and_in_order(numbers: list[int], limit: int, order: str) -> None:
    """Even if an id stands in the list more than once."""
    items, seen, after = items_of(*numbers), list[str](), ""
    for _ in range(len(items) + 1):
        query = {"limit": str(limit), "order": order, "after": after}
        listed = read_page(list(query.items())).cut(items)
        assert len(listed["data"]) <= limit
        seen += ids_of(listed)
        after = listed["last_id"]
        if not listed["has_more"]:
            break
    oldest_first = list(dict.fromkeys(item.id for item in items))
    assert seen == (oldest_first if order == "asc" else oldest_first[::-1])


def test_a_search_is_listed_without_what_only_the_model_reads() -> None:
    action = {"type": "search", "query": "q", "queries": ["q"], "sources": [{"type": "url", "url": "u"}]}
    kept = WebSearchCall(
        id="ws_1", status="completed", action=action, name="search", arguments="{}", output="secret"
    )
    shown = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": action}
    message = b'{"type":"message","role":"user","content":"{\\"type\\":\\"web_search_call\\"}"}'
    search = msgspec.json.encode(kept)
    assert [msgspec.json.decode(item) for item in list_stored([search])] == [shown]
    assert list_stored([message]) == [message]
    assert unlisted_bytes([search, message]) == len(search)
    assert msgspec.to_builtins(list_of([kept])["data"]) == [shown]
