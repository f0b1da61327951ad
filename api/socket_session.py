"""One WebSocket: reads what the client asks for, and passes it to its lanes.

Owns the limits of a connection and its age; `lane.py` owns the order of responses, `socket_protocol.py` the
bytes. Source: the guide to WebSocket mode of the public API.
"""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, cast

import msgspec
from starlette.responses import Response
from starlette.websockets import WebSocket
from uvicorn.protocols.utils import ClientDisconnected

from api.bodies.messages import Cancel, Create, Invalid, Processed, Steer, read_message
from api.errors import RETRY_AFTER, ClientError, response_not_found
from api.held_bodies import Bodies, BodiesFull, HeldBody
from api.lane import Lane, LaneContext, LaneWire, SocketCall
from api.services import Services
from api.socket_messages import lane_member, text_message
from api.socket_protocol import GOING_AWAY, socket_of
from api.sockets import Sockets
from api.sse import EventStreams, keep_alive_line
from api.tenants import Tenants
from api.traced import told_by
from shared.responses import Dialect
from shared.setting_types import KeepAliveForm
from shared.settings import Settings
from shared.store.keys import ResponseKey
from shared.store.records.response_store import Stored
from shared.store.redis.connections import REDIS_AWAY

_log = logging.getLogger(__name__)


class Session:
    """`form`: of its keep-alives; `dialect`: of its events, None for the operator's. The caller has accepted
    the connection."""

    def __init__(self, websocket: WebSocket, form: KeepAliveForm, dialect: Dialect | None) -> None:
        state = websocket.app.state
        self._websocket = websocket
        self._settings = cast(Settings, state.settings)
        self._services = cast(Services, state.services)
        self._tenants = cast(Tenants, state.tenants)
        self._bodies = cast(Bodies, state.bodies)
        self._sockets = cast(Sockets, state.sockets)
        self._protocol = socket_of(websocket.scope)
        self._connection = LaneContext(
            self._protocol,
            self._services,
            cast(EventStreams, state.streams),
            self._sockets.remembered,
            asyncio.Semaphore(self._settings.socket_responses_max),
            dialect,
            keep_alive_line(form),
            self._authorize,
            self._recall,
            self._answer,
            self._end_if_aged,
            told_by(websocket.headers),
        )
        self._lanes: dict[str | None, Lane] = {}
        self._is_aged = False

    async def run(self) -> None:
        """Serves the connection until it ends; its responses that are in progress go on."""
        aging = asyncio.get_running_loop().call_later(self._settings.socket_age_max_s, self._age)
        try:
            with self._sockets.present(self._protocol):
                while await self._take_next():
                    pass
        except ClientDisconnected:
            pass
        finally:
            aging.cancel()
            for lane in self._lanes.values():
                await lane.end()

    async def _take_next(self) -> bool:
        """Returns False at the end. A message is not held while the next one is waited for."""
        received = await self._websocket.receive()
        if received["type"] != "websocket.receive":
            return False
        await self._take(received["bytes"])
        return True

    async def _take(self, raw: bytes) -> None:
        values_max = self._settings.json_values_max
        message = await self._services.offload.run(len(raw), lambda: read_message(raw, values_max))
        try:
            match message:
                case Create():
                    self._ask(message, raw)
                case Cancel():
                    await self._cancel(message)
                case Steer():
                    await self._protocol.deliver(text_message(_refused_steer(message)))
                case Processed():
                    pass
                case Invalid(error, stream_id):
                    await self._refuse(error, stream_id)
        except ClientDisconnected:  # an OSError, as some of REDIS_AWAY are
            raise
        except (ClientError, *REDIS_AWAY) as error:
            await self._refuse(error, message.stream_id if isinstance(message, Create | Cancel) else None)

    # --- what is asked for ----------------------------------------------------------------------

    def _ask(self, asked: Create, raw: bytes) -> None:
        """Puts a call into its lane. Raises ClientError."""
        if self._is_aged:
            raise self._too_old()
        lane = self._lane_of(asked.stream_id)
        in_hand_max = self._settings.socket_responses_max + self._settings.socket_waiting_max
        if sum(lane.in_hand for lane in self._lanes.values()) >= in_hand_max:
            message = f"Too many responses wait on this WebSocket ({in_hand_max} in all). Try again later."
            raise ClientError(429, message, "rate_limit_exceeded", headers=RETRY_AFTER)
        held = HeldBody(self._bodies)
        try:
            held.grow_to(len(raw))
        except BodiesFull:
            message = "This node has too many large requests in hand. Try again."
            raise ClientError(503, message, "service_unavailable", headers=RETRY_AFTER) from None
        lane.ask(SocketCall(raw, held, asked.generates, asked.previous_response_id))

    def _lane_of(self, stream_id: str | None) -> Lane:
        """Returns the lane, which is new if the connection has not named it before. Raises ClientError."""
        lane = self._lanes.get(stream_id)
        if lane is not None:
            return lane
        lanes_max = self._settings.socket_lanes_max
        if stream_id is not None and len(self._lanes.keys() - {None}) >= lanes_max:
            message = (
                "This WebSocket connection has reached its maximum number of distinct stream IDs "
                f"({lanes_max}). Reuse an existing stream_id or open a new WebSocket connection."
            )
            raise ClientError(400, message, "websocket_stream_limit_reached", "stream_id")
        lane = self._lanes[stream_id] = Lane(self._connection, stream_id)
        return lane

    async def _cancel(self, cancel: Cancel) -> None:
        """Cancels a response that is followed here; its events say so. Raises ClientError, REDIS_AWAY."""
        await self._services.read.cancel_own(self._key_of(cancel))

    def _key_of(self, cancel: Cancel) -> ResponseKey:
        if cancel.response_id is None:
            lane = self._lanes.get(cancel.stream_id)
            if lane is None or lane.current is None:
                raise ClientError(404, "No response is in progress on this lane.", "response_not_found")
            return lane.current
        for lane in self._lanes.values():
            if lane.current is not None and lane.current.response_id == cancel.response_id:
                return lane.current
        raise response_not_found(cancel.response_id)

    # --- what lanes need ------------------------------------------------------------------------

    def _authorize(self) -> str:
        return self._tenants.tenant_of(self._websocket.headers.get("authorization"))

    async def _recall(self, response_id: str) -> Stored | None:
        for lane in self._lanes.values():
            latest = lane.latest
            if latest is not None and latest.key.response_id == response_id:
                return latest.record or await self._services.read.read_ended(latest.key)
        return None

    async def _answer(self, error: Exception) -> Response:
        """Answers as an HTTP call's failure is answered, by the same handlers."""
        handlers = self._websocket.app.exception_handlers
        kind = next(kind for kind in type(error).__mro__ if kind in handlers)
        if kind is Exception:
            _log.error("a message could not be served", exc_info=error)
        return await cast(Awaitable[Response], handlers[kind](self._websocket, error))

    async def _refuse(self, error: Exception, stream_id: str | None) -> None:
        answer = await self._answer(error)
        await LaneWire(self._protocol, lane_member(stream_id)).refuse(answer)

    # --- its age --------------------------------------------------------------------------------

    def _age(self) -> None:
        """Accepts nothing more; what is in progress may end."""
        self._is_aged = True
        self._end_if_aged()

    def _end_if_aged(self) -> None:
        if self._is_aged and not any(lane.is_busy for lane in self._lanes.values()):
            self._protocol.end(GOING_AWAY, str(self._too_old()))

    def _too_old(self) -> ClientError:
        minutes = self._settings.socket_age_max_s / 60
        message = (
            f"Responses websocket connection limit reached ({minutes:g} minutes). "
            "Create a new websocket connection to continue."
        )
        return ClientError(400, message, "websocket_connection_limit_reached")


def _refused_steer(steer: Steer) -> bytes:
    """Returns the event that gives the input back, in the form of the public API."""
    message = "The input of a response in progress cannot be added to. Send it with the next response."
    error = {"type": "invalid_request_error", "code": "steering_not_supported", "message": message}
    returned: dict[str, Any] = {
        "previous_response_id": steer.previous_response_id,
        "input": msgspec.Raw(steer.input),
    }
    event = {"type": "response.steer.failed", "sequence_number": 0, "error": error, "steer": returned}
    return msgspec.json.encode(event)
