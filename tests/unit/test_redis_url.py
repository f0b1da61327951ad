"""The forms of `redis_url`, and the errors of invalid ones."""

import pytest
from pydantic import ValidationError

from shared.redis_url import SentinelUrl, read_sentinel_url
from shared.settings import Settings


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis+sentinel://a/main", SentinelUrl((("a", 26379),), "main", 0, None, None)),
        ("redis+sentinel://a:1,b:2/main/3", SentinelUrl((("a", 1), ("b", 2)), "main", 3, None, None)),
        ("redis+sentinel://[::1]:5/m", SentinelUrl((("::1", 5),), "m", 0, None, None)),
        ("redis+sentinel://u:p%40%2F@a:1/m", SentinelUrl((("a", 1),), "m", 0, "u", "p@/")),
        ("redis+sentinel://:p@a:1/m/", SentinelUrl((("a", 1),), "m", 0, None, "p")),
    ],
)
def test_a_sentinel_url_is_read(url: str, expected: SentinelUrl) -> None:
    assert read_sentinel_url(url) == expected


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:6379/0",
        "rediss://u:p@host",
        "unix:///tmp/redis.sock",
        "redis://[::1]:6379",
        "redis://h:1",
    ],
)
def test_the_url_of_a_server_is_left_to_the_client(url: str) -> None:
    assert read_sentinel_url(url) is None


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("127.0.0.1:6379", "must begin with redis://"),
        ("http://:hunter2@a", "must begin with redis://"),
        ("redis://:hunter2@a:b/0", "must have the form redis://"),
        ("redis://", "must have the form redis://"),
        ("redis://:hunter2@a/zero", "'zero', which is not a number"),
        ("redis+sentinel://:hunter2@a:1", "/MASTER_NAME"),
        ("redis+sentinel://:hunter2@a:1/", "/MASTER_NAME"),
        ("redis+sentinel://:hunter2@/main", "which is not host:port"),
        ("redis+sentinel://:hunter2@a:1,/main", "'', which is not host:port"),
        ("redis+sentinel://:hunter2@a:b/main", "'a:b', which is not host:port"),
        ("redis+sentinel://:hunter2@a:99999/main", "'a:99999', which is not host:port"),
        ("redis+sentinel://:hunter2@a/main/x", "'x', which is not a number"),
        ("redis+sentinel://:hunter2@a/main?db=1", "must have the form"),
    ],
)
def test_a_wrong_url_is_refused_by_name_and_its_password_kept_quiet(url: str, reason: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        Settings(redis_url=url)
    assert "redis_url" in str(refusal.value)
    assert reason in str(refusal.value)
    assert "hunter2" not in str(refusal.value)
