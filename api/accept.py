"""Accepts responses: checks what a create call asks for, composes the request, and writes it in one script.

Owns the order of these steps, from the body to the record; `read.py` owns what is reported about a response
afterwards.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec

from api import context
from api.approvals import Questions, Unread, confirm, is_approval, read_questions
from api.bodies.containers import check_continued
from api.bodies.context_management import check_compaction
from api.bodies.includes import check_sealing
from api.bodies.messages import read_call
from api.bodies.requests import Birth, Creation, RequestLimits, read_create
from api.catalogue import Catalogue
from api.context import Sources, compose
from api.conversations import Conversations
from api.errors import invalid_value, unsupported_parameter
from api.hub import Arrival
from api.offload import Offload
from api.prompt_length import check_prompt_length
from api.rates import rate_limited
from api.read import Follower
from api.request_limits import limits_of
from api.tenants import Tenants
from api.unlisted import read_listings, unlisted_servers
from shared import ids, lifecycle, logs, traces
from shared.frames import encode
from shared.lifecycle import begin, fold
from shared.responses import (
    ConversationReference,
    Dialect,
    InputTokensDetails,
    McpTool,
    OutputTokensDetails,
    Response,
    ResponseRequest,
    Usage,
)
from shared.settings import Settings
from shared.store.keys import ConversationKey, ResponseKey
from shared.store.log import closing
from shared.store.records import response_store, token_count
from shared.store.records.admission import (
    NO_ALLOWANCES,
    Admitted,
    Allowances,
    ConversationLocked,
    ConversationMoved,
    Membership,
    NewResponse,
    RateExceeded,
    Repetition,
)
from shared.store.records.response_store import Stored
from shared.store.records.watchers import name_reader
from shared.store.redis.client import RedisClient

_NO_USAGE = Usage(0, InputTokensDetails(), 0, OutputTokensDetails(), 0)
_READINGS_MAX = 3
"""How often a conversation is read for one create call, if other calls add items to it meanwhile."""

Recall = Callable[[str], Awaitable[Stored | None]]
"""Returns a response that may be continued although it is not stored, by its id, or None."""

T = TypeVar("T")

Reader = Callable[[bytes, Birth, Sequence[str], RequestLimits], Creation]
"""Reads a body as `read_create` does; raises ClientError."""


@dataclass(frozen=True, slots=True)
class Created:
    key: ResponseKey
    is_streamed: bool
    is_background: bool
    accepted: bytes = b""
    """JSON of the response as accepted, if that answers the call; empty if an earlier call created it."""
    arrival: Arrival | None = None
    """What follows it, unless its call does not wait for it or an earlier one created it."""
    ignored_tools: tuple[str, ...] = ()
    """The types of the tools that were left out (`unsupported_tools`)."""
    allowances: Allowances = NO_ALLOWANCES
    """What is left of the tenant's limits a minute; nothing is said of them to a call that is repeated."""
    is_stored: bool = True


@dataclass(frozen=True, slots=True)
class Count:
    """How many tokens the model would read. `ignored_tools`: as in Created."""

    tokens: int
    ignored_tools: tuple[str, ...] = ()


class Acceptance:
    def __init__(
        self,
        redis: RedisClient,
        offload: Offload,
        conversations: Conversations,
        settings: Settings,
        clock: Callable[[], float],
        tenants: Tenants,
        follower: Follower,
    ) -> None:
        """`clock` returns seconds since the epoch."""
        self._redis = redis
        self._follower = follower
        self._offload = offload
        self.catalogue = Catalogue(redis, settings)
        self._conversations = conversations
        self._settings = settings
        self._clock = clock
        self._tenants = tenants
        self._limits = limits_of(settings)
        self._asking = asyncio.Semaphore(token_count.ASKING_MAX)
        self._name = ids.new_owner("api")

    async def create(
        self,
        tenant: str,
        raw: bytes,
        idempotency_key: str | None = None,
        dialect: Dialect | None = None,
        read: Reader = read_create,
    ) -> Created:
        """Accepts a create call, or raises and writes nothing. `dialect`: None for the operator's; `read`
        knows the form of the body.

        Raises ClientError, QueueFull, TenantBusy, KeyReused, REDIS_AWAY.
        """
        async with self._offload.in_hand(len(raw)):
            return await self._create(tenant, raw, idempotency_key, dialect, read)

    async def create_by_message(
        self, tenant: str, raw: bytes, recall: Recall, dialect: Dialect | None, *, generates: bool
    ) -> Created:
        """Accepts a `response.create`, or raises what `create` does and writes nothing.

        `recall`: what the connection may continue besides stored responses. Unless it `generates`, the
        response has ended when this returns, and no worker has had it.
        """
        async with self._offload.in_hand(len(raw)):
            creation = await self._read(raw, dialect, read_call)
            self._check(creation)
            if not generates and creation.conversation_id is not None:
                raise invalid_value("generate", "nothing is added to a conversation without an answer")
            if not generates and any(map(is_approval, creation.items)):
                raise invalid_value("generate", "a call that is approved is made by the same response")
            created = await self._accept(tenant, creation, len(raw), None, recall, generates=generates)
        if not generates:
            await self._end_unasked(created.key)
        return created

    async def _end_unasked(self, key: ResponseKey) -> None:
        """Completes a response for which nothing is to be generated. Its node alone knows of it; if that dies
        here, the response runs, and is cancelled because nobody reads it."""

        def complete(response: Response) -> lifecycle.TerminalEvent:
            return lifecycle.complete(response, _NO_USAGE, int(self._clock()))

        async with self._redis_bound():
            await closing.end_at_once(
                self._redis, self._settings, key, self._name, complete, self._offload.run
            )

    def _check(self, creation: Creation) -> None:
        response = creation.request.response
        self._check_background(response.background, response.store)
        self._check_secrets(creation.secret_param)
        has_keys = bool(self._settings.seal_keys)
        check_sealing(creation.request.include, has_keys=has_keys)
        check_compaction(creation.request, has_keys=has_keys)

    async def _create(
        self, tenant: str, raw: bytes, idempotency_key: str | None, dialect: Dialect | None, read: Reader
    ) -> Created:
        creation = await self._read(raw, dialect, read)
        response = creation.request.response
        self._check(creation)
        repetition = None
        if idempotency_key is not None:
            is_alone = context.is_compaction_alone(creation.request)
            digest = await self._offload.run(len(raw), lambda: _digest(raw, dialect, compacts=is_alone))
            repetition = Repetition(idempotency_key, digest, renews=is_alone)
            async with self._redis_bound():  # up to three round trips
                known = await response_store.find_repeated(self._redis, tenant, repetition)
            if known is not None:
                ignored = creation.ignored_tools
                return Created(known, creation.is_streamed, response.background, ignored_tools=ignored)
        return await self._accept(tenant, creation, len(raw), repetition)

    async def _accept(
        self,
        tenant: str,
        creation: Creation,
        raw_bytes: int,
        repetition: Repetition | None,
        recall: Recall | None = None,
        *,
        generates: bool = True,
    ) -> Created:
        """Writes the response with its context, reading that again if the conversation has changed."""
        for _ in range(_READINGS_MAX):
            sources = await self._read_sources(tenant, creation, recall)
            new, accepted = await self._compose(
                tenant,
                creation,
                sources,
                raw_bytes,
                lambda request: self._make_new(tenant, request, creation, repetition),
            )
            new = replace(new, membership=sources.membership, is_queued=generates)
            try:
                admitted, arrival = await self._write(self._settings_of(tenant), new, creation.is_streamed)
            except ConversationMoved:
                continue
            except RateExceeded as exceeded:
                raise rate_limited(exceeded) from None
            return Created(
                admitted.key,
                creation.is_streamed,
                new.is_background,
                accepted if admitted.key == new.key else b"",
                arrival,
                creation.ignored_tools,
                admitted.allowances,
                new.is_stored,
            )
        raise ConversationLocked

    async def _write(
        self, settings: Settings, new: NewResponse, is_streamed: bool
    ) -> tuple[Admitted, Arrival | None]:
        """Writes a response; returns the one that answers the call, and what follows it if it is new."""
        logs.note_subject(*new.key)
        if (new.is_background and not is_streamed) or not new.is_queued:
            return await response_store.create(self._redis, settings, new), None
        reader = "" if new.is_background else name_reader()
        new = replace(new, is_followed=True, reader=reader)
        arrival = self._follower.expect(new.key, new.frames)
        arrival.announced = reader
        is_new = False
        try:
            admitted = await response_store.create(self._redis, settings, new)
            arrival.is_heard, is_new = admitted.is_heard, admitted.key == new.key
        finally:
            if not is_new:
                self._follower.forsake(arrival)
        return admitted, arrival if is_new else None

    def _settings_of(self, tenant: str) -> Settings:
        return self._tenants.limits_of(tenant).over(self._settings)

    def _make_new(
        self, tenant: str, request: ResponseRequest, creation: Creation, repetition: Repetition | None
    ) -> tuple[NewResponse, bytes]:
        """Returns the response to be written, and the JSON that answers a background call, or b"".

        Raises ClientError for a prompt that is too long, unless it will be compacted, or the call streams and
        its events may report that.
        """
        may_be_long = creation.is_streamed and not creation.is_refused_if_long
        if not may_be_long and request.compaction is None:
            check_prompt_length(request, self._settings.context_tokens_max)
        response = request.response
        previous = response.previous_response_id
        parent = ResponseKey(tenant, previous) if previous is not None else None
        key = ResponseKey(tenant, response.id)
        is_answer = response.background and not creation.is_streamed
        accepted = encode(fold(begin(response))) if is_answer else b""
        new = NewResponse.of(key, request, creation.secrets, parent, repetition)
        webhooks = self._tenants.webhooks_for(tenant, response, self._settings)
        return replace(new, webhooks=webhooks, queue=self.catalogue.queue_of(response.model)), accepted

    async def _read(self, raw: bytes, dialect: Dialect | None = None, read: Reader = read_create) -> Creation:
        settings = self._settings
        birth = Birth(ids.new_response_id(settings.cell), int(self._clock()), dialect or settings.dialect)
        creation = await self.catalogue.read(
            lambda models: self._offload.run(len(raw), lambda: read(raw, birth, models, self._limits))
        )
        if (origin := traces.origin(self._clock())) is None:
            return creation
        return replace(creation, request=msgspec.structs.replace(creation.request, trace=origin))

    async def _compose(
        self,
        tenant: str,
        creation: Creation,
        sources: Sources,
        raw_bytes: int,
        finish: Callable[[ResponseRequest], T],
    ) -> T:
        """Composes the request with its context; returns what `finish` makes of it."""
        request = creation.request
        if creation.conversation_id is not None:
            reference = ConversationReference(creation.conversation_id)
            response = msgspec.structs.replace(request.response, conversation=reference)
            request = msgspec.structs.replace(request, response=response)

        def composed() -> T | Unread:
            whole = compose(request, creation.items, sources, self._settings, tenant)
            check_continued(whole, creation.tool_places)
            confirmed = confirm(whole, creation.items, asked)
            return confirmed if isinstance(confirmed, Unread) else finish(confirmed)

        asked: Questions = {}
        while isinstance(made := await self._offload.run(raw_bytes + sources.size_bytes, composed), Unread):
            asked = await read_questions(self._redis, self._offload, self._settings, tenant, made.ids)
        return made

    async def _read_sources(self, tenant: str, creation: Creation, recall: Recall | None = None) -> Sources:
        request = creation.request
        parent, membership = None, None
        items: Sequence[bytes] = ()
        if creation.conversation_id is not None:
            conversation = ConversationKey(tenant, creation.conversation_id)
            read = await self._conversations.read_context(conversation)
            items, membership = read.items, Membership(conversation, read.place)
        elif request.response.previous_response_id is not None:
            key = ResponseKey(tenant, request.response.previous_response_id)
            recalled = await recall(key.response_id) if recall else None
            parent = recalled or await context.read_parent(self._redis, key, request.dialect)
        referenced = await context.read_references(
            self._redis, self._offload, self._settings, tenant, creation.items, "input"
        )
        kept = await context.read_kept(self._redis, self._offload, self._settings, tenant, creation.items)
        return Sources(parent, items, referenced, membership, kept)

    def _check_background(self, background: bool, store: bool) -> None:
        if background and not store and not self._settings.allow_unstored_background:
            raise unsupported_parameter("background", "background can only be used when `store` is true.")

    def _check_secrets(self, param: str | None) -> None:
        """Refuses secrets that could not be sealed, except on a developer's own machine."""
        is_local = self._tenants.is_open and not self._settings.open_hosts
        if param is not None and self._settings.secrets_key is None and not is_local:
            reason = "This server keeps no secrets for tool servers: its operator has set no secrets_key."
            raise unsupported_parameter(param, reason)

    async def count_input_tokens(self, tenant: str, raw: bytes) -> Count:
        """Counts the tokens that the model would read.

        Raises ClientError, QueueFull, TenantBusy, CountUnanswered and REDIS_AWAY.
        """
        settings = self._settings_of(tenant)
        async with self._offload.in_hand(len(raw)):
            creation = await self._read(raw)
            sources = await self._read_sources(tenant, creation)
            record, unlisted = await self._compose(
                tenant,
                creation,
                sources,
                len(raw),
                lambda request: (msgspec.json.encode(request), unlisted_servers(request)),
            )
        listed: dict[str, tuple[McpTool, ...]] = {}
        if unlisted:
            self._check_secrets(creation.secret_param)
            results = await token_count.list_tools(
                self._redis, settings, tenant, unlisted, creation.secrets, self._asking
            )
            listed = read_listings(unlisted, results)
        queue = self.catalogue.queue_of(creation.request.response.model)
        tokens = await token_count.ask(self._redis, settings, tenant, record, self._asking, listed, queue)
        return Count(tokens, creation.ignored_tools)

    def _redis_bound(self) -> asyncio.Timeout:
        """Limits several round trips together to `redis_timeout_s`; then raises TimeoutError (REDIS_AWAY)."""
        return asyncio.timeout(self._settings.redis_timeout_s)


def _digest(raw: bytes, dialect: Dialect | None, *, compacts: bool) -> str:
    """Returns the digest of what a call asks for: its body, the dialect if it names one, and whether it
    `compacts`, since the same body may create a response, too."""
    digest = hashlib.sha256(raw)
    if dialect is not None:
        digest.update(b"\n" + dialect.encode())
    if compacts:
        digest.update(b"\n/compact")  # a create call's digest stays as earlier versions made it
    return digest.hexdigest()
