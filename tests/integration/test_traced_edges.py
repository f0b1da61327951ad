"""A trace goes on through a router and to the webhooks, with what the client's tracing systems have added."""

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from api.offload import Offload
from shared.ids import new_response_id
from shared.settings import Settings
from shared.store.log import closing
from shared.store.records import response_store
from shared.store.redis.client import RedisClient
from shared.trace_origin import TraceOrigin
from tests.cells import FakeNode, routing
from tests.integration.test_router_sockets import two
from tests.integration.test_webhooks import create, roster_of, sending, until_settled
from tests.webhook_receiver import Arrival, receiving, status

TRACE_ID, STATE = "0af7651916cd43dd8448eb211c80319c", "vendor=1,other=x"
CLIENTS = {"traceparent": f"00-{TRACE_ID}-b7ad6b7169203331-01", "tracestate": STATE}
A = new_response_id("a")


def told(span: ReadableSpan) -> str:
    """The `traceparent` of a span."""
    assert span.context is not None
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-01"


def parent_of(span: ReadableSpan) -> str:
    assert span.parent is not None
    return f"{span.parent.span_id:016x}"


async def test_a_router_has_a_span_and_the_node_that_it_asks_continues_it(
    exported: InMemorySpanExporter,
) -> None:
    a, b = FakeNode("a"), FakeNode("b")
    async with routing({"a": [a], "b": [b]}, weights={"b": 0}) as (_, client):
        await client.get("/ready")
        await client.post("/v1/responses", json={"model": "m", "input": "my secret"}, headers=CLIENTS)
        await client.post(f"/v1/responses/{A}/cancel", headers=CLIENTS)
        await b.stop()
        await client.get("/v1/responses/" + A.replace("_a_", "_b_"), headers=CLIENTS)
    asked, served, _, cancelled, unreached, unanswered = exported.get_finished_spans()
    assert [span.name for span in (asked, served, cancelled, unreached)] == [
        *("ask a", "POST /v1/responses", "POST /v1/responses/{response_id}", "ask b"),
    ]
    assert parent_of(served) == "b7ad6b7169203331"
    assert parent_of(asked) == told(served).split("-")[2]
    assert a.asked[0].headers["traceparent"] == told(asked)
    assert a.asked[0].headers["tracestate"] == STATE
    assert dict(asked.attributes or {}) == {"antiphon.cell": "a", "http.response.status_code": 200}
    assert (unreached.attributes or {})["error.type"] == "Unreached"
    assert unanswered.status.status_code is StatusCode.ERROR
    assert "secret" not in "".join(span.to_json() for span in exported.get_finished_spans())


async def test_a_router_without_traces_passes_the_clients_on() -> None:
    a = FakeNode("a")
    async with routing({"a": [a]}) as (_, client):
        await client.post("/v1/responses", json={"model": "m", "input": "x"}, headers=CLIENTS)
    assert CLIENTS.items() <= a.asked[0].headers.items()


async def test_a_socket_through_a_router_continues_the_clients_trace(exported: InMemorySpanExporter) -> None:
    async with two() as cells, cells.socket(**CLIENTS) as socket:
        await socket.create(previous_response_id=A)
        assert (await socket.event())["cell"] == "a"
        (connection,) = cells.a.connections
        assert connection.request is not None
        got = connection.request.headers
    (reached,) = exported.get_finished_spans()
    assert (reached.name, parent_of(reached)) == ("WS /v1/responses", "b7ad6b7169203331")
    assert (got["traceparent"], got["tracestate"]) == (told(reached), STATE)


async def test_each_attempt_to_deliver_a_webhook_is_a_span_of_the_responses_trace(
    redis: RedisClient, settings: Settings, exported: InMemorySpanExporter
) -> None:
    settings = settings.model_copy(update={"webhook_retry_first_s": 0.01})
    answers = iter([status(500), status(204)])

    async def answer(_: Arrival) -> bytes:
        return next(answers)

    origin = TraceOrigin(CLIENTS["traceparent"], 1_763_769_600_000, STATE)
    key = await create(redis, settings, trace=origin)
    assert await closing.cancel(redis, settings, key, "api", Offload().run) == "ended"
    async with receiving(answer) as receiver, sending(redis, settings, roster_of(receiver.url())):
        await until_settled(redis)
    first, second = exported.get_finished_spans()
    assert {span.name for span in (first, second)} == {"deliver webhook"}
    assert {parent_of(span) for span in (first, second)} == {"b7ad6b7169203331"}
    assert [arrival.headers["traceparent"] for arrival in receiver.arrivals] == [told(first), told(second)]
    assert {arrival.headers["tracestate"] for arrival in receiver.arrivals} == {STATE}
    assert (first.status.status_code, second.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    about = {"antiphon.response.id": key.response_id, "antiphon.tenant": "acme", "antiphon.webhook": "main"}
    assert dict(second.attributes or {}) == {**about, "antiphon.failures": 1}


async def test_a_webhook_whose_response_is_gone_or_has_no_trace_is_delivered_with_one_of_its_own(
    redis: RedisClient, settings: Settings, exported: InMemorySpanExporter
) -> None:
    gone = await create(redis, settings, trace=TraceOrigin(CLIENTS["traceparent"], 0))
    plain = await create(redis, settings)
    for key in (gone, plain):
        assert await closing.cancel(redis, settings, key, "api", Offload().run) == "ended"
    assert await response_store.delete(redis, gone) == "deleted"
    async with receiving() as receiver, sending(redis, settings, roster_of(receiver.url())):
        await until_settled(redis)
    assert sorted(receiver.ids()) == sorted(key.response_id for key in (gone, plain))
    assert [span.parent for span in exported.get_finished_spans()] == [None, None]
