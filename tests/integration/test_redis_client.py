"""The promises of the client beyond Redis's own: a cancelled task ends, and no command waits for ever."""

import asyncio
import os
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from local.ports import HOST
from local.valkey import Valkey
from shared.settings import Settings
from shared.store.owning import lease
from shared.store.owning.lease import Acquired, Renewal
from shared.store.redis.client import RedisClient
from shared.store.redis.connections import REDIS_AWAY
from shared.store.redis.subscription import Subscription
from tests.failover import WatchedValkeys
from tests.patience import PATIENCE_S, until
from tests.proxy import Proxy
from tests.requests import accept


async def test_a_task_that_is_cancelled_at_any_step_of_a_command_ends(redis: RedisClient) -> None:
    async def ask_for_ever() -> None:
        while True:
            await redis.command("TIME")
            await redis.transaction(("TIME",), ("TIME",))

    for steps in range(400):
        asking = asyncio.create_task(ask_for_ever())
        for _ in range(steps % 40):
            await asyncio.sleep(0)
        asking.cancel()
        ended, _ = await asyncio.wait([asking], timeout=PATIENCE_S)
        assert ended, f"it goes on after a cancellation at step {steps % 40}"
        assert asking.cancelled()


async def test_a_redis_that_accepts_but_does_not_answer_is_away_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = RedisClient.connect(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", timeout_s=0.2)
        for ask in (client.command("TIME"), client.transaction(("TIME",))):
            with pytest.raises(REDIS_AWAY):
                await asyncio.wait_for(ask, timeout=PATIENCE_S)
        await client.close()


REFUSING = {
    "it lacks its replicas": (("CONFIG", "SET", "min-replicas-to-write", 1),),
    "it is a replica now": (("REPLICAOF", "127.0.0.1", 1),),
    "it lost its primary": (
        ("CONFIG", "SET", "replica-serve-stale-data", "no"),
        ("REPLICAOF", "127.0.0.1", 1),
    ),
    "it is full": (("CONFIG", "SET", "maxmemory", 1),),
}
READY_AGAIN = (
    ("REPLICAOF", "NO", "ONE"),
    ("CONFIG", "SET", "replica-serve-stale-data", "yes"),
    ("CONFIG", "SET", "min-replicas-to-write", 0),
    ("CONFIG", "SET", "maxmemory", 0),
)


@pytest.mark.parametrize("reason", REFUSING)
async def test_a_server_that_refuses_for_now_is_away_and_comes_back(
    redis: RedisClient, settings: Settings, reason: str
) -> None:
    key = await accept(redis, settings)
    held = await lease.acquire(redis, settings, key, "a")
    assert isinstance(held, Acquired)
    try:
        for command in REFUSING[reason]:
            await redis.command(*command)
        with pytest.raises(REDIS_AWAY):
            await accept(redis, settings)
        try:
            assert await lease.renew_all(redis, [Renewal.of(settings, held.lease)]) == []
        except REDIS_AWAY:
            pass  # what the beat knows, and tries again
    finally:
        for command in READY_AGAIN:
            await redis.command(*command)
    await accept(redis, settings)
    assert await lease.renew_all(redis, [Renewal.of(settings, held.lease)]) == []


async def test_a_subscription_notices_a_server_that_hangs_and_listens_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    missed = asyncio.Event()
    with Valkey(tmp_path) as server:
        client = RedisClient.connect(server.url, timeout_s=PATIENCE_S)
        listener = RedisClient.connect_listener(server.url)
        subscription = Subscription(listener)
        await subscription.add("news")
        listening = asyncio.create_task(
            subscription.listen(lambda _, payload: heard.put_nowait(payload), missed.set)
        )
        async with asyncio.timeout(PATIENCE_S):
            await client.command("PUBLISH", "news", "before")
            assert await heard.get() == b"before"
            os.kill(server.pid, signal.SIGSTOP)
            try:
                await until(lambda: "is silent" in caplog.text)
            finally:
                os.kill(server.pid, signal.SIGCONT)
            await missed.wait()
            await client.command("PUBLISH", "news", "after")
            assert await heard.get() == b"after"
        listening.cancel()
        await asyncio.wait([listening])
        await subscription.close()
        await listener.close()
        await client.close()


async def test_a_channel_whose_first_reader_left_at_once_reaches_the_second(
    redis: RedisClient, settings: Settings
) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    listener = RedisClient.connect_listener(settings.redis_url)
    subscription = Subscription(listener)
    async with subscription._changing:  # another change is in progress
        first = asyncio.create_task(subscription.add("news"))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
    listening = asyncio.create_task(
        subscription.listen(lambda _, payload: heard.put_nowait(payload), lambda: None)
    )
    async with asyncio.timeout(PATIENCE_S):
        await until(lambda: redis.command("PUBLISH", "news", "here"))
        assert await heard.get() == b"here"
    listening.cancel()
    await asyncio.wait([listening])
    await subscription.close()
    await listener.close()


async def test_who_is_cancelled_while_idle_connections_are_left_takes_nobody_with_him(
    tmp_path: Path,
) -> None:
    """A connection whose server does not read is closed only after a while."""
    with Valkey(tmp_path) as valkey:
        client = RedisClient.connect(valkey.url, timeout_s=PATIENCE_S)
        pool = client.raw.connection_pool
        await client.command("PING")
        (idle,) = pool._available_connections
        os.kill(valkey.pid, signal.SIGSTOP)
        assert idle._writer is not None
        idle._writer.write(b"PING\r\n" * 4_000_000)
        other = asyncio.create_task(idle.disconnect())
        leaving = asyncio.create_task(pool.disconnect(inuse_connections=False))
        for _ in range(5):
            await asyncio.sleep(0)
        leaving.cancel()
        os.kill(valkey.pid, signal.SIGCONT)
        await asyncio.wait([leaving, other])
        assert not other.cancelled()
        assert await client.command("PING")
        await client.close()


async def test_a_client_is_closed_although_its_server_does_not_read(tmp_path: Path) -> None:
    """Every connection is, however long one of them takes."""
    with Valkey(tmp_path) as valkey:
        client = RedisClient.connect(valkey.url, timeout_s=1.0)
        pool = client.raw.connection_pool
        await asyncio.gather(client.command("PING"), client.command("PING"))
        connections: list[Any] = list(pool._available_connections)
        transports = [connection._writer.transport for connection in connections]
        assert len(transports) == 2
        os.kill(valkey.pid, signal.SIGSTOP)
        transports[0].write(b"PING\r\n" * 4_000_000)
        await client.close()
        await until(lambda: all(each.get_extra_info("socket").fileno() == -1 for each in transports))
        os.kill(valkey.pid, signal.SIGCONT)


async def _subscribe_and_leave(client: RedisClient) -> None:
    subscription = Subscription(client)
    await subscription.add("news")
    subscription.remove("news")


ASKING: dict[str, Callable[[RedisClient], Awaitable[Any]]] = {
    "a command": lambda client: client.command("TIME"),
    "a transaction": lambda client: client.transaction(("TIME",)),
    "a confirmed write": lambda client: client.confirm(),
    "a subscription": _subscribe_and_leave,
}


@pytest.mark.parametrize("ask", ASKING.values(), ids=ASKING.keys())
@pytest.mark.parametrize("is_watched", [False, True], ids=["one server", "Sentinels"])
async def test_a_closed_client_keeps_and_opens_no_connection(
    watched: WatchedValkeys, valkey: Valkey, ask: Callable[[RedisClient], Awaitable[Any]], is_watched: bool
) -> None:
    """Whatever still runs when it is closed, and however far that is."""
    url = watched.url if is_watched else valkey.url

    async def close_after(steps: int) -> None:
        client = RedisClient.connect(url, timeout_s=PATIENCE_S, durability="replica" if is_watched else "no")
        asking = asyncio.ensure_future(ask(client))
        for _ in range(steps):
            await asyncio.sleep(0)
        await client.close()
        await asyncio.wait_for(asyncio.wait([asking]), PATIENCE_S)
        assert asking.exception() is None or isinstance(asking.exception(), REDIS_AWAY)
        with pytest.raises(REDIS_AWAY):
            await client.command("TIME")
        assert _open_connections(client) == 0, f"closed at step {steps}"

    await asyncio.gather(*(close_after(steps) for steps in range(60)))


def _open_connections(client: RedisClient) -> int:
    pool: Any = client.raw.connection_pool
    sentinels = pool.sentinel_manager.sentinels if hasattr(pool, "sentinel_manager") else []
    pools = [pool, *(sentinel.connection_pool for sentinel in sentinels)]
    return sum(
        connection.is_connected
        for pool in pools
        for connection in (*pool._available_connections, *pool._in_use_connections)
    )


async def test_a_socket_file_leads_to_its_server(redis: RedisClient, valkey: Valkey, tmp_path: Path) -> None:
    proxy = Proxy(valkey.port)
    path = tmp_path / "valkey.sock"
    async with await asyncio.start_unix_server(proxy.serve, path):
        await _check_that_it_leads(redis, f"unix://{path}")
        await proxy.end()


async def test_a_server_behind_tls_is_reached(redis: RedisClient, valkey: Valkey, tmp_path: Path) -> None:
    proxy = Proxy(valkey.port)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = _write_certificate(tmp_path)
    context.load_cert_chain(certificate)
    async with await asyncio.start_server(proxy.serve, HOST, 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        await _check_that_it_leads(redis, f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}")
        with pytest.raises(REDIS_AWAY, match="certificate"):
            await _check_that_it_leads(redis, f"rediss://localhost:{port}/0")
        await proxy.end()


async def _check_that_it_leads(redis: RedisClient, url: str) -> None:
    await redis.command("SET", "where", url, "EX", 60)
    clients = RedisClient.connect(url, timeout_s=PATIENCE_S), RedisClient.connect_listener(url)
    try:
        for client in clients:
            assert await client.command("GET", "where") == url.encode()
    finally:
        for client in clients:
            await client.close()


def _write_certificate(folder: Path) -> Path:
    """Writes a certificate for localhost, and its key, into one file; returns the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(*form) + certificate.public_bytes(serialization.Encoding.PEM))
    return path
