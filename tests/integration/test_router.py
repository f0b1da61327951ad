"""A router in front of stand-ins for API nodes: who is asked, what is never asked twice, how streams pass."""

import asyncio
import errno
import hashlib
import time
from typing import Any
from unittest.mock import AsyncMock

import httpx
import pytest

from api.cells.fleet import Health
from api.cells.upstream import Sent, Upstream
from api.tenants import Tenants
from shared import metrics
from shared.ids import item_id, new_conversation_id, new_response_id
from shared.settings import Settings
from shared.tenants_file import Roster
from tests.cells import NOT_READY, READY, Asked, FakeNode, answer_of, routing
from tests.patience import PATIENCE_S, until

A, B, UNKNOWN = (new_response_id(cell) for cell in ("a", "b", "zz"))
CREATE = {"model": "m", "input": "hi"}


def two() -> tuple[FakeNode, FakeNode, dict[str, list[FakeNode]]]:
    a, b = FakeNode("a"), FakeNode("b")
    return a, b, {"a": [a], "b": [b]}


def error_of(answer: httpx.Response) -> tuple[int, str | None, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["code"]


def counted(name: str, **labels: str) -> float:
    collector = metrics.OURS[name].collector
    samples = [sample for family in collector.collect() for sample in family.samples]
    return sum(each.value for each in samples if labels.items() <= each.labels.items())


async def test_an_id_in_the_path_or_the_body_leads_to_its_cell_with_all_that_was_sent() -> None:
    a, b, cells = two()
    async with routing(cells) as (_, client):
        headers = {"authorization": "Bearer k", "x-own": "1", "accept": "text/event-stream"}
        await client.get(f"/v1/responses/{B}?stream=true&starting_after=3", headers=headers)
        await client.post(f"/v1/responses/{B}/cancel")
        await client.delete(f"/v1/conversations/{new_conversation_id('b')}/items/x%2Fy")
        body = {**CREATE, "input": [{"type": "item_reference", "id": item_id("msg", B, 0)}]}
        await client.post("/v1/responses", json=body, headers=headers)
    assert a.asked == []
    read, cancel, removal, create = b.asked
    assert read.target == f"/v1/responses/{B}?stream=true&starting_after=3"
    assert headers.items() <= read.headers.items()
    assert read.headers["host"].startswith("127.0.0.1:")
    assert (cancel.method, removal.method) == ("POST", "DELETE")
    assert removal.target.endswith("/items/x%2Fy")
    assert create.json == body
    assert headers.items() <= create.headers.items()


async def test_what_names_no_cell_goes_by_weight_and_a_key_stays_with_its_cell() -> None:
    _, _, cells = two()
    async with routing(cells, weights={"b": 0}) as (_, client):
        for _ in range(5):
            assert (await client.post("/v1/responses", json=CREATE)).json() == {"cell": "a"}
    async with routing(cells) as (_, client):
        by_key = {}
        for key in map(str, range(12)):
            answers = [
                await client.post("/v1/responses", json=CREATE, headers={"idempotency-key": key})
                for _ in "123"
            ]
            (by_key[key],) = {answer.json()["cell"] for answer in answers}
        assert set(by_key.values()) == {"a", "b"}
        assert (await client.get(f"/v1/responses/{UNKNOWN}")).json()["cell"] in "ab"


async def test_ids_of_two_cells_are_refused_before_any_cell_is_asked() -> None:
    a, b, cells = two()
    async with routing(cells) as (_, client):
        body = {**CREATE, "previous_response_id": A, "conversation": new_conversation_id("b")}
        answer = await client.post("/v1/responses", json=body)
    assert error_of(answer) == (400, "conversation", "invalid_value")
    assert answer.headers["x-request-id"].startswith("req_")
    assert (a.asked, b.asked) == ([], [])


async def test_creates_leave_a_dead_cell_but_ids_and_keys_do_not() -> None:
    a, b, cells = two()
    async with routing(cells) as (router, client):
        headers = {"idempotency-key": ""}
        for key in map(str, range(100)):
            headers = {"idempotency-key": key}
            if (await client.post("/v1/responses", json=CREATE, headers=headers)).json() == {"cell": "a"}:
                break
        await a.stop()
        b.asked.clear()
        unreached = counted("antiphon_routed_requests_total", cell="a", outcome="unreached")
        assert counted("antiphon_cell_nodes", cell="a", state="ready") == 1
        for _ in range(8):  # also those that meet it before it is probed
            assert (await client.post("/v1/responses", json=CREATE)).json() == {"cell": "b"}
        refused = [
            await client.post("/v1/responses", json=CREATE, headers=headers),
            await client.get(f"/v1/responses/{A}"),
            await client.post("/v1/responses", json={**CREATE, "previous_response_id": A}),
        ]
        assert [error_of(each) for each in refused] == [(503, None, "service_unavailable")] * 3
        assert all(each.headers["retry-after"] == "1" for each in refused)
        assert len(b.asked) == 8
        assert counted("antiphon_cell_nodes", cell="a", state="away") == 1
        assert counted("antiphon_routed_requests_total", cell="a", outcome="unreached") > unreached
        await a.start()
        await router.fleet.probe_all()
        assert (await client.get(f"/v1/responses/{A}")).json() == {"cell": "a"}


async def test_a_node_of_another_cell_is_asked_nothing_until_its_setting_is_right(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The ids that it makes would lead to a cell that does not know them."""
    _, b, cells = two()
    b.readiness = answer_of({"status": "ready", "cell": "0"})
    async with routing(cells) as (router, client):
        for _ in range(8):
            assert (await client.post("/v1/responses", json=CREATE)).json() == {"cell": "a"}
        assert error_of(await client.get(f"/v1/responses/{B}"))[0] == 503
        assert counted("antiphon_cell_nodes", cell="b", state="away") == 1
        assert "its ANTIPHON_CELL is '0', and ANTIPHON_CELLS has it in 'b'" in caplog.text
        b.readiness = answer_of({"status": "ready", "cell": "b"})
        await router.fleet.probe_all()
        assert (await client.get(f"/v1/responses/{B}")).json() == {"cell": "b"}
    assert [asked.target for asked in b.asked] == [f"/v1/responses/{B}"]


def test_a_node_is_in_one_cell() -> None:
    nodes = {"nodes": ["http://10.0.0.1:8000"]}
    with pytest.raises(ValueError, match=r"http://10\.0\.0\.1:8000 is a node of both a and b"):
        Settings(cells={"a": nodes, "b": nodes})


async def test_a_cell_that_is_not_ready_takes_no_creates_but_is_still_read() -> None:
    a, b, cells = two()
    async with routing(cells) as (router, client):
        a.readiness = NOT_READY
        await router.fleet.probe_all()
        for _ in range(5):
            assert (await client.post("/v1/responses", json=CREATE)).json() == {"cell": "b"}
        assert (await client.get(f"/v1/responses/{A}")).json() == {"cell": "a"}
        assert (await client.get("/ready")).json()["cells"]["a"] == {"ready": 0, "nodes": 1}
        b.readiness = NOT_READY
        await router.fleet.probe_all()
        assert (await client.get("/ready")).status_code == 503
        assert (await client.post("/v1/responses", json=CREATE)).json()["cell"] in "ab"


@pytest.mark.parametrize("keyed", [True, False])
async def test_a_create_that_may_have_been_accepted_is_repeated_in_its_cell_only_and_only_with_a_key(
    keyed: bool,
) -> None:
    first, second, other = FakeNode("a"), FakeNode("a"), FakeNode("b")

    async def break_off(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    for node in (first, second):
        node.answering = break_off
    async with routing({"a": [first, second], "b": [other]}, weights={"b": 0}) as (_, client):
        headers = {"idempotency-key": "k"} if keyed else {}
        answer = await client.post("/v1/responses", json=CREATE, headers=headers)
    assert error_of(answer) == (502, None, "server_error")
    assert len(first.asked) + len(second.asked) == (2 if keyed else 1)
    assert other.asked == []


async def test_a_reading_is_repeated_on_another_node_of_its_cell() -> None:
    broken, sound = FakeNode("a"), FakeNode("a")

    async def break_off(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    broken.answering = break_off
    async with routing({"a": [broken, sound]}) as (_, client):
        for _ in range(6):
            assert (await client.get(f"/v1/responses/{A}")).status_code == 200
    assert len(sound.asked) == 6


async def test_events_pass_as_they_come_and_a_broken_stream_ends_broken() -> None:
    a, _, cells = two()
    go_on = asyncio.Event()

    async def stream(asked: Asked, writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b"9\r\ndata: 1\n\n\r\n")
        await go_on.wait()
        writer.write(b"9\r\ndata: 2\n\n\r\n")
        await writer.drain()
        if "whole" in asked.target:
            writer.write(b"0\r\n\r\n")
        else:
            writer.close()

    a.answering = stream
    async with routing(cells) as (_, client):
        async with client.stream("GET", f"/v1/responses/{A}?whole") as answer:
            chunks = answer.aiter_raw()
            assert await anext(chunks) == b"data: 1\n\n"  # the second is not sent before this
            go_on.set()
            assert b"".join([chunk async for chunk in chunks]) == b"data: 2\n\n"
        async with client.stream("GET", f"/v1/responses/{A}") as answer:
            received: list[bytes] = []
            with pytest.raises(httpx.RemoteProtocolError):
                await collect(answer, received)
            assert b"".join(received) == b"data: 1\n\ndata: 2\n\n"


async def collect(answer: httpx.Response, received: list[bytes]) -> None:
    async for chunk in answer.aiter_raw():
        received.append(chunk)


@pytest.mark.parametrize("has_head", [True, False])
async def test_a_client_that_leaves_ends_its_request_to_the_cell(has_head: bool) -> None:
    a, _, cells = two()
    has_come, has_left = asyncio.Event(), asyncio.Event()

    async def wait(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if has_head:
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        has_come.set()
        await until(asked.has_been_left)
        has_left.set()

    a.answering = wait
    async with routing(cells) as (_, client):
        reading = asyncio.create_task(
            client.post("/v1/responses", json={**CREATE, "previous_response_id": A})
        )
        await has_come.wait()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await until(has_left.is_set)


def list_of(*entries: tuple[str, int], has_more: bool = False, after: str = "-") -> bytes:
    data = [{"id": id_, "status": "completed"} for id_, _ in entries]
    places = " ".join([after, *(str(created_ms) for _, created_ms in entries)])
    return answer_of({"object": "list", "data": data, "has_more": has_more}, Antiphon_Places=places)


async def test_a_list_is_of_all_cells_in_order_a_page_at_a_time() -> None:
    """The stand-ins list as API nodes do (`test_response_list.py`)."""
    ids = {cell: [new_response_id(cell) for _ in range(3)] for cell in "ab"}
    made = {
        "a": list(zip(ids["a"], (60, 40, 20), strict=True)),
        "b": list(zip(ids["b"], (50, 40, 10), strict=True)),
    }
    a, b, cells = two()

    def listing(name: str) -> Any:
        async def answer(asked: Asked, writer: asyncio.StreamWriter) -> None:
            query = httpx.URL(asked.target).params
            place, after = asked.headers["antiphon-place"], query.get("after", "")
            known = dict(made[name])
            after_ms = known.get(after) or (int(place) if place != "?" else None)
            if after and after_ms is None:
                writer.write(answer_of({"error": {"param": "response_id", "code": "x"}}, 404))
                return
            rest = sorted(((ms, id_) for id_, ms in made[name]), reverse=True)
            if after_ms is not None:
                rest = [each for each in rest if each < (after_ms, after)]
            limit = int(query["limit"])
            page = [(id_, ms) for ms, id_ in rest[:limit]]
            writer.write(list_of(*page, has_more=len(rest) > limit, after=str(after_ms or "-")))

        return answer

    a.answering, b.answering = listing("a"), listing("b")
    wanted = [id_ for _, id_ in sorted(((ms, id_) for cell in "ab" for id_, ms in made[cell]), reverse=True)]
    async with routing(cells) as (_, client):
        for limit in (1, 2, 4, 100):
            seen: list[str] = []
            has_more, query = True, {"limit": str(limit)}
            while has_more:
                page = (await client.get("/v1/responses", params=query)).json()
                seen += [each["id"] for each in page["data"]]
                assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], seen[-1])
                has_more, query["after"] = page["has_more"], seen[-1]
            assert seen == wanted, limit
        query = {"limit": "9", "after": new_response_id("a")}
        assert error_of(await client.get("/v1/responses", params=query))[0] == 404
        query["after"] = UNKNOWN
        assert error_of(await client.get("/v1/responses", params=query))[0] == 404
        assert error_of(await client.get("/v1/responses?limit=0")) == (400, "limit", "invalid_value")
        await b.stop()
        answer = await client.get("/v1/responses?limit=9")
        assert [each["id"] for each in answer.json()["data"]] == ids["a"]
        assert answer.headers["antiphon-cells-missing"] == "b"
        gone = await client.get(f"/v1/responses?limit=9&after={ids['b'][0]}")
        assert error_of(gone) == (503, None, "service_unavailable")


async def test_the_router_refuses_by_itself_what_no_cell_needs_to_see() -> None:
    a, b, cells = two()
    tenants = Tenants(Roster({hashlib.sha256(b"k").hexdigest(): "t"}))
    limits: dict[str, Any] = {"body_bytes_max": 1_000, "bodies_bytes_max": 2_000, "sockets_max": 0}
    async with routing(cells, tenants, **limits) as (_, client):
        assert (await client.get("/health")).json() == {"status": "ok"}
        assert error_of(await client.post("/v1/responses", json=CREATE)) == (401, None, "invalid_api_key")
        headers = {"authorization": "Bearer k"}
        large = await client.post("/v1/responses", content=b"x" * 1_001, headers=headers)
        assert error_of(large) == (413, None, "request_too_large")
        upgrade = {"connection": "upgrade", "upgrade": "websocket", "sec-websocket-version": "13"}
        upgrade["sec-websocket-key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
        assert error_of(await client.get("/v1/responses", headers=upgrade))[0] == 401
        socket = await client.get("/v1/responses", headers=headers | upgrade)
        assert error_of(socket) == (426, None, "websocket_not_supported")
        assert (a.asked, b.asked) == ([], [])
        assert (await client.post("/v1/responses", json=CREATE, headers=headers)).status_code == 200


async def test_a_router_that_ends_cuts_its_streams_and_refuses_who_still_waits() -> None:
    a, _, cells = two()
    come: list[str] = []

    async def wait(asked: Asked, writer: asyncio.StreamWriter) -> None:
        come.append(asked.target)
        if asked.method == "GET":
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        await until(asked.has_been_left)

    a.answering = wait
    async with routing(cells) as (router, client):
        body = {**CREATE, "previous_response_id": A}
        waiting = asyncio.create_task(client.post("/v1/responses", json=body))
        async with client.stream("GET", f"/v1/responses/{A}?stream=true") as answer:
            chunks = answer.aiter_raw()
            assert await anext(chunks) == b"x"
            await until(lambda: len(come) == 2)
            router.is_draining = True
            router.end_streams()
            with pytest.raises(httpx.RemoteProtocolError):
                await anext(chunks)
        assert error_of(await waiting) == (503, None, "service_unavailable")


async def silence(asked: Asked, writer: asyncio.StreamWriter) -> None:
    """Takes a request and never answers, as a hung node does."""
    await until(asked.has_been_left)


async def test_who_waits_for_a_hung_node_is_answered_elsewhere_or_told_and_its_streams_are_cut() -> None:
    hung, sound = FakeNode("a"), FakeNode("a")

    async def begin_or_hang(asked: Asked, writer: asyncio.StreamWriter) -> None:
        if "stream" in asked.target:
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
        await silence(asked, writer)

    hung.answering = begin_or_hang
    async with routing({"a": [hung, sound]}) as (router, client):
        silent, other = router.fleet.cells["a"].nodes
        other.health = Health.ANSWERING  # so that the hung one is asked first
        async with client.stream("GET", f"/v1/responses/{A}?stream=true") as answer:
            chunks = answer.aiter_raw()
            assert await anext(chunks) == b"x"
            reading = asyncio.create_task(client.get(f"/v1/responses/{A}"))
            creating = asyncio.create_task(client.post("/v1/responses", json=CREATE))
            await until(lambda: len(hung.asked) == 3)
            hung.readiness, router.fleet.timeout_s = b"", 0.01
            for misses in (1, 2):
                assert not reading.done(), "one late answer is no reason"
                assert not creating.done()
                await router.fleet.probe(silent)
                assert silent.misses == misses
            with pytest.raises(httpx.RemoteProtocolError):
                await anext(chunks)
        assert (await reading).json() == {"cell": "a"}
        assert error_of(await creating) == (502, None, "server_error")
        assert len(sound.asked) == 1
        silent.health = Health.READY  # as a request sees it that is sent while a probe waits
        late = asyncio.create_task(client.get(f"/v1/responses/{A}"))
        await until(lambda: len(hung.asked) == 4)
        await router.fleet.probe(silent)
        assert not late.done(), "it has not been silent for two probes"
        await router.fleet.probe(silent)
        assert (await late).json() == {"cell": "a"}
        hung.readiness, router.fleet.timeout_s = READY, PATIENCE_S
        await router.fleet.probe(silent)
        assert (silent.health, silent.misses) == (Health.READY, 0)


async def test_an_answer_that_still_comes_is_not_cut_for_late_probes() -> None:
    a, _, cells = two()
    go_on = asyncio.Event()

    async def stream(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n1\r\n")
        await go_on.wait()
        writer.write(b"1\r\n2\r\n")
        await until(lambda: a.readiness == READY)
        writer.write(b"0\r\n\r\n")

    a.answering = stream
    async with routing(cells) as (router, client):
        (node,) = router.fleet.cells["a"].nodes
        async with client.stream("GET", f"/v1/responses/{A}?stream=true") as answer:
            chunks = answer.aiter_raw()
            assert await anext(chunks) == b"1"
            a.readiness, router.fleet.timeout_s = b"", 0.01
            await router.fleet.probe(node)
            go_on.set()
            assert await anext(chunks) == b"2"
            await router.fleet.probe(node)
            assert (node.health, node.misses) == (Health.AWAY, 2)
            a.readiness = READY
            assert [chunk async for chunk in chunks] == []


async def test_a_router_that_was_busy_itself_does_not_take_a_node_for_dead() -> None:
    node = FakeNode("a")
    await node.start()
    upstream = Upstream(f"http://127.0.0.1:{node.port}", 1.0, PATIENCE_S)
    sending = asyncio.create_task(upstream.send(Sent(b"GET", b"/ready", ())))
    await asyncio.sleep(0)
    time.sleep(1.1)  # noqa: ASYNC251  longer than a connection may take
    answer = await sending
    await answer.read_head()
    assert answer.status == 200
    answer.close()
    upstream.close()
    await node.stop()


async def test_what_a_router_has_run_out_of_is_not_a_nodes_fault() -> None:
    _, _, cells = two()
    async with routing(cells) as (router, client):
        await client.get("/health")
        with pytest.MonkeyPatch.context() as patch:
            exhausted = OSError(errno.EMFILE, "Too many open files")
            patch.setattr(asyncio, "open_connection", AsyncMock(side_effect=exhausted))
            for cell in router.fleet.cells.values():
                cell.nodes[0].upstream.close()
            assert error_of(await client.get(f"/v1/responses/{A}"))[0] == 503
        assert (await client.get(f"/v1/responses/{A}")).json() == {"cell": "a"}


async def test_a_head_of_the_list_is_answered_as_a_get_without_its_body() -> None:
    a, b, cells = two()

    async def listing(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(list_of((A, 1)))

    a.answering = b.answering = listing
    async with routing(cells) as (_, client):
        got, head = await client.get("/v1/responses"), await client.head("/v1/responses")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]


async def test_a_console_is_not_one_of_several_and_a_router_is_no_node() -> None:
    a, b, cells = two()
    async with routing(cells) as (_, client):
        for path in ("/console", "/console/", "/console/api/cluster"):
            assert error_of(await client.get(path)) == (404, None, "unknown_url")
        assert (a.asked, b.asked) == ([], [])
        async with routing({"x": []}, urls={"x": [str(client.base_url)]}) as (outer, _):
            answer = await client.get(f"/v1/responses/{A}", headers={"via": "1.1 antiphon-router"})
            assert error_of(answer) == (508, None, "router_loop")
            await outer.fleet.probe_all()
            assert outer.fleet.cells["x"].health is Health.ANSWERING
