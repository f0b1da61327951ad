"""Passes one request on to a cell, and its answer back, piece by piece as it comes.

Owns the order in which nodes are tried, and that no request is sent twice which may have been accepted; which
cells may answer, the caller decides.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.cells.fleet import CellState, Fleet, Node
from api.cells.upstream import Broken, CellAnswer, Headers, Sent, Unreached
from api.errors import RETRY_AFTER, ClientError, StreamCut
from shared import metrics, traces
from shared.tracer import PARENT_HEADER, STATE_HEADER

_OF_ONE_CONNECTION = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te", b"trailer"),
        *(b"transfer-encoding", b"upgrade", b"http2-settings", b"expect"),
    }
)
_OF_A_TRACE = frozenset({PARENT_HEADER.encode(), STATE_HEADER.encode()})
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that change nothing."""
_NODES_MAX = 3
"""How many nodes of one cell are tried for one request."""

_log = logging.getLogger(__name__)


def sent_of(request: Request, body: bytes) -> Sent:
    """Returns a request as it is passed on: the same line, headers and body."""
    scope = request.scope
    query = scope["query_string"]
    target = scope["raw_path"] + (b"?" + query if query else b"")
    headers = [(key, value) for key, value in passed_on(scope["headers"]) if key != b"content-length"]
    return Sent(scope["method"].encode(), target, headers, body)


def passed_on(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Returns the headers of a request or an answer without those that concern one connection only."""
    named = {
        name.strip().lower() for key, value in headers if key == b"connection" for name in value.split(b",")
    }
    return [(key, value) for key, value in headers if key not in _OF_ONE_CONNECTION and key not in named]


def traced(headers: Headers) -> Headers:
    """Returns the headers of a request as they tell the span around the caller, if there are traces; a node
    then continues that, and not the client's own."""
    if not traces.is_on():
        return headers
    told = traces.current().headers()
    kept = [each for each in headers if each[0] not in _OF_A_TRACE]
    return [*kept, *((name.encode(), value.encode("latin-1")) for name, value in told.items())]


class Relay:
    """Asks the nodes of cells."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def ask(self, cells: Sequence[CellState], sent: Sent, *, is_repeatable: bool) -> CellAnswer:
        """Returns the answer of the first of the cells that can be reached.

        `is_repeatable`: whether nothing is done twice if two nodes of these cells are asked; only then a
        request is sent again that may have been read. Raises ClientError: a 502 if a node may have read it
        and none has answered, a 503 if none has read it.
        """
        is_sent = False
        for cell in cells:
            for node in cell.usable()[:_NODES_MAX]:
                try:
                    answer = await self._ask_node(cell, node, sent, is_repeatable=is_repeatable)
                    metrics.ROUTED.labels(cell.name, "answered").inc()
                    return answer
                except Unreached as error:
                    metrics.ROUTED.labels(cell.name, "unreached").inc()
                    self._fleet.note_unreached(node, error)
                except Broken as error:
                    _log.warning("node %s has not answered a request: %s", node.url, error)
                    metrics.ROUTED.labels(cell.name, "unanswered").inc()
                    is_sent = True
                    if not is_repeatable:
                        raise _unanswered() from error
        raise _unanswered() if is_sent else away()

    async def _ask_node(self, cell: CellState, node: Node, sent: Sent, *, is_repeatable: bool) -> CellAnswer:
        """Returns the answer of a node, once its head has come. Raises Unreached, Broken."""
        with traces.span(f"ask {cell.name}", {"antiphon.cell": cell.name}, kind="client") as span:
            answer = await node.upstream.send(replace(sent, headers=traced(sent.headers)))
            if not is_repeatable:
                sent.let_go()
            await answer.read_head()
            span.note({"http.response.status_code": answer.status})
            return answer


def away() -> ClientError:
    message = "The part of this service that has to answer cannot be reached. Try again later."
    return ClientError(503, message, "service_unavailable", headers=RETRY_AFTER)


def _unanswered() -> ClientError:
    message = (
        "The part of this service that was asked has ended its connection without an answer. What was asked "
        "may have been done."
    )
    return ClientError(502, message, "server_error")


class Passed(Response):
    """An answer of a node, passed on as it comes. If it breaks off, so does this one."""

    def __init__(self, answer: CellAnswer) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [field for field in passed_on(self._answer.headers) if field[0] != b"date"]
        start = {"type": "http.response.start", "status": self._answer.status, "headers": headers}
        try:
            await send(start)
            async for chunk in self._answer.chunks():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except Broken as error:
            raise StreamCut(f"its node has broken off: {error}") from None
        finally:
            self._answer.close()
