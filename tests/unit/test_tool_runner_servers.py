import json
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.responses import ServerSecrets
from shared.settings import Settings
from tool_runner.servers import (
    BadServersFile,
    HttpServer,
    NoServer,
    StdioServer,
    choose,
    is_builtin_python,
    load,
)

URL = "https://mcp.example.org/mcp"
SECRETS = ServerSecrets({"X-Key": "from request", "X-Other": "o"}, "token")


def load_file(folder: Path, servers: Any) -> Any:
    path = folder / "servers.json"
    path.write_text(servers if isinstance(servers, str) else json.dumps(servers))
    return load(Settings(mcp_servers=path))


def test_code_interpreter_is_the_built_in_python_server_by_default() -> None:
    server = load(Settings())["code_interpreter"]
    assert isinstance(server, StdioServer)
    assert server.command == sys.executable
    assert server.args[:2] == ("-m", "tool_runner.builtin.python")


def test_a_setting_puts_cpython_in_its_place_and_names_the_python_of_an_environment() -> None:
    settings = Settings(python_tool="cpython", python_path=Path("/opt/notebook/bin/python"))
    server = load(settings)["code_interpreter"]
    assert isinstance(server, StdioServer)
    assert server.args[:2] == ("-m", "tool_runner.builtin.cpython")
    assert server.args[-2:] == ("--python", "/opt/notebook/bin/python")
    assert is_builtin_python(server)


def test_the_operator_may_put_another_server_in_its_place(tmp_path: Path) -> None:
    servers = load_file(tmp_path, {"code_interpreter": {"url": URL}})
    assert choose(servers, "code_interpreter", None, None) == HttpServer(URL)


def test_a_configured_label_wins_over_the_url_of_the_request(tmp_path: Path) -> None:
    servers = load_file(tmp_path, {"files": {"command": "serve-files", "args": ["/srv"], "env": {"A": "b"}}})
    assert choose(servers, "files", "IGNORED", None) == StdioServer("serve-files", ("/srv",), (("A", "b"),))


def test_the_url_of_the_request_is_used_for_an_unknown_label() -> None:
    assert choose({}, "mine", URL, SECRETS) == HttpServer(
        URL, {"x-key": "from request", "x-other": "o", "authorization": "Bearer token"}, is_of_request=True
    )


def test_the_whole_url_of_the_request_comes_with_its_secrets() -> None:
    server = choose({}, "mine", "https://mcp.example.org", ServerSecrets(url=URL + "?key=1"))
    assert server == HttpServer(URL + "?key=1", is_of_request=True)


def test_an_operators_header_is_never_replaced_by_the_request(tmp_path: Path) -> None:
    servers = load_file(
        tmp_path, {"crm": {"url": URL, "headers": {"x-KEY": "operator's", "Authorization": "Basic x"}}}
    )
    server = choose(servers, "crm", None, SECRETS)
    assert isinstance(server, HttpServer)
    assert server.headers == {"x-key": "operator's", "x-other": "o", "authorization": "Basic x"}


def test_secrets_never_reach_a_stdio_server() -> None:
    server = load(Settings())["code_interpreter"]
    assert choose({"code_interpreter": server}, "code_interpreter", None, SECRETS) is server


@pytest.mark.parametrize(
    "url",
    [
        "IGNORED",
        "ftp://a/b",
        "file:///etc/passwd",
        "http://",
        "https://[::1",
        "http://a:99999/",
        "http://a b/",
    ],
)
def test_a_request_may_name_http_urls_only_and_the_refusal_does_not_repeat_them(url: str) -> None:
    with pytest.raises(NoServer) as refused:
        choose({}, "mine", url, None)
    assert str(refused.value) == "server_url must be an http or https URL"


def test_a_label_without_any_server_is_refused_by_name() -> None:
    with pytest.raises(NoServer, match=r"'mine'.*no server_url"):
        choose({}, "mine", None, None)


@pytest.mark.parametrize(
    "headers", [{"X-Key": "se\ncret"}, {"X-Key": "secrét"}, {"Host": "secret"}, {"Content-Length": "secret"}]
)
def test_a_header_that_could_bend_the_request_is_refused_without_telling_its_value(
    headers: dict[str, str],
) -> None:
    with pytest.raises(NoServer) as refused:
        choose({}, "mine", URL, ServerSecrets(headers))
    assert next(iter(headers)) in str(refused.value)
    assert "cret" not in str(refused.value)


def test_a_server_does_not_show_its_secrets_when_printed() -> None:
    assert "token" not in repr(choose({}, "mine", URL, SECRETS))
    assert "hunter2" not in repr(StdioServer("serve", (), (("PASSWORD", "hunter2"),)))


@pytest.mark.parametrize(
    ("servers", "fault"),
    [
        ("{", "not an object of servers"),
        ([], "not an object of servers"),
        ({"a": {}}, "server 'a': give either url or command"),
        ({"a": {"url": URL, "command": "x"}}, "server 'a': give either url or command"),
        ({"a": {"url": "example.org"}}, "server 'a': url must be an http or https URL"),
        ({"a": {"url": URL, "header": {}}}, "server 'a': .*header"),
        ({"a": {"url": URL, "headers": {"x": 1}}}, "server 'a': .*headers"),
        ({"a": {"url": URL, "headers": {"a b": "c"}}}, "server 'a': headers: 'a b' is not a header name"),
        ({"a": {"command": ""}}, "server 'a': command must not be empty"),
        ({"a": {"command": "x", "args": "y"}}, "server 'a': .*args"),
        ({"a": {"command": "x", "env": {"a": "\0"}}}, "server 'a': .*NUL"),
        ({"": {"url": URL}}, "no request can give this label"),
        ({"a.b": {"url": URL}}, "no request can give this label"),
        ({"Python": {"url": URL}}, "no request can give this label"),
    ],
)
def test_a_fault_in_the_operators_file_is_named_with_server_and_field(
    tmp_path: Path, servers: Any, fault: str
) -> None:
    with pytest.raises(BadServersFile, match=f"servers.json.*{fault}"):
        load_file(tmp_path, servers)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadServersFile, match=r"nowhere\.json: No such file"):
        load(Settings(mcp_servers=tmp_path / "nowhere.json"))
