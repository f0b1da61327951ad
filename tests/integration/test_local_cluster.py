"""The local launcher keeps roles running, reports on them truthfully, and leaves nothing behind.

Most roles here are small stand-ins, so that each way to die can be had at once; two tests start the real
ones.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from local import record
from local.cluster import ROOT, Cluster, PortTaken
from local.ports import find_free
from local.processes import Identity, identify, is_running
from local.record import FolderInUse
from local.supervisor import DeadOnArrival
from local.valkey import Valkey, is_serving, read_port, write_configuration
from shared.store.redis.client import RedisClient
from tests.patience import PATIENCE_S, wait_until
from tests.running import find_free_row

API = """
    import http.server, json, os, sys
    from pathlib import Path

    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen = {kind: len(list(Path("present").glob(kind + ".*"))) for kind in ("worker", "tool_runner")}
            is_ready = all(seen.values())
            body = {"status": "ready" if is_ready else "starting", "redis": True,
                    "workers": seen["worker"], "tool_runners": seen["tool_runner"]}
            self.send_response(200 if is_ready else 503)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *words):
            print("asked", flush=True)

    http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Ready).serve_forever()
"""

WORKER = """
    import os, signal
    from pathlib import Path

    Path("present").mkdir(exist_ok=True)
    Path(f"present/worker.{os.getpid()}").write_text(os.environ["ANTIPHON_REDIS_URL"])
    signal.pause()
"""

TOOL_RUNNER = """
    import os, signal, subprocess
    from pathlib import Path

    Path("present").mkdir(exist_ok=True)
    tool = subprocess.Popen(["/bin/sh", "-c", "trap '' TERM; echo ready; exec sleep 600"],
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    tool.stdout.readline()
    Path(f"present/tool.{tool.pid}").touch()
    Path(f"present/tool_runner.{os.getpid()}").touch()
    signal.pause()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project folder with the launcher as it is and stand-ins for the roles."""
    folder = tmp_path / "root"
    folder.mkdir()
    for package in ("local", "shared"):
        (folder / package).symlink_to(ROOT / package)
    for name, source in (("api", API), ("worker", WORKER), ("tool_runner", TOOL_RUNNER)):
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data folder"


def tools_of(root: Path) -> list[Identity]:
    """What the stand-in tool runners started: processes that ignore SIGTERM."""
    return [identify(int(path.suffix[1:])) for path in (root / "present").glob("tool.*")]


def read_cluster(data: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((data / "cluster.json").read_text())
    return found


def read_log(role: dict[str, Any]) -> str:
    return Path(role["log"]).read_text()


def recorded(data: Path) -> list[Identity]:
    return [Identity(role["pid"], role["started"]) for role in read_cluster(data)["roles"]]


class Launcher:
    """`python -m local …` from the stand-in root, in a process group of its own."""

    def __init__(self, root: Path, *arguments: str, before: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [*before, sys.executable, "-m", "local", *arguments],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if not name.startswith("ANTIPHON_")},
            start_new_session=True,
        )

    def read_ready_line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def finish(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, out, err


@pytest.fixture
def launch(root: Path) -> Iterator[Callable[..., Launcher]]:
    started: list[Launcher] = []

    def start(*arguments: str, before: tuple[str, ...] = ()) -> Launcher:
        started.append(Launcher(root, *arguments, before=before))
        return started[-1]

    yield start
    for launcher in started:
        launcher.process.terminate()
        launcher.process.communicate(timeout=PATIENCE_S)


def find_warden(launcher_pid: int) -> int:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == launcher_pid and b"local.warden" in command:
            return int(folder.name)
    raise AssertionError("the launcher has no warden")


# The cluster as a test drives it


async def test_a_ready_cluster_records_every_role(root: Path, data: Path) -> None:
    async with Cluster(data, apis=2, workers=2, root=root) as cluster:
        found = read_cluster(data)
        names = ["valkey-0", "api-0", "api-1", "worker-0", "worker-1", "tool_runner-0"]
        assert [role["name"] for role in found["roles"]] == names
        assert {role["name"]: role["pid"] for role in found["roles"]} == cluster.pids
        assert all(is_running(process) for process in recorded(data))
        ports = [role["port"] for role in found["roles"] if role["kind"] == "api"]
        assert [f"http://127.0.0.1:{port}" for port in ports] == cluster.urls
        assert found["redis_url"] == cluster.redis_url
        assert found["launcher"]["pid"] == os.getpid()
        assert "asked" in read_log(found["roles"][1])


async def test_after_a_cluster_nothing_of_it_runs_not_even_what_its_roles_started(
    root: Path, data: Path
) -> None:
    async with Cluster(data, root=root):
        processes = [*recorded(data), *tools_of(root)]
        assert [is_running(process) for process in processes] == [True] * 5
    assert not any(is_running(process) for process in processes)
    assert not (data / "cluster.json").exists()


async def test_a_killed_role_is_restarted_and_the_record_says_so(root: Path, data: Path) -> None:
    async with Cluster(data, root=root) as cluster:
        old = cluster.kill("worker")
        new = await cluster.until_restarted("worker")
        assert new != old
        worker = next(role for role in read_cluster(data)["roles"] if role["name"] == "worker-0")
        assert (worker["pid"], worker["restarts"]) == (new, 1)
        assert is_running(Identity(worker["pid"], worker["started"]))
        assert "SIGKILL" in read_log(worker)


async def test_what_a_killed_role_had_started_ends_before_its_next_start(root: Path, data: Path) -> None:
    async with Cluster(data, root=root) as cluster:
        [tool] = tools_of(root)
        assert is_running(tool)
        cluster.kill("tool_runner")
        await cluster.until_restarted("tool_runner")
        assert not is_running(tool)


async def test_a_killed_valkey_comes_back_at_its_address_with_its_data(root: Path, data: Path) -> None:
    async with Cluster(data, root=root) as cluster:
        redis = RedisClient.connect(cluster.redis_url, timeout_s=PATIENCE_S)
        await redis.command("SET", "kept", "yes", "EX", 600)
        await redis.close()
        cluster.kill("valkey")
        pid = await cluster.until_restarted("valkey")
        port = int(cluster.redis_url.rpartition(":")[2].split("/")[0])
        wait_until(lambda: is_serving(port, pid), "the new process serves at the old address")
        redis = RedisClient.connect(cluster.redis_url, timeout_s=PATIENCE_S)
        assert await redis.command("GET", "kept") == b"yes"
        await redis.close()


async def test_roles_get_the_settings_and_the_redis_that_was_named(root: Path, data: Path) -> None:
    with Valkey(data / "other") as other:
        async with Cluster(data, redis_url=other.url, root=root) as cluster:
            assert "valkey-0" not in cluster.pids
            [worker] = (root / "present").glob("worker.*")
            assert worker.read_text() == other.url


async def test_a_role_that_is_dead_on_arrival_is_an_error_that_shows_its_log(root: Path, data: Path) -> None:
    (root / "worker.py").write_text("raise SystemExit('no weights found')")
    with pytest.raises(DeadOnArrival, match=r"worker-0 ended 3 times.*exit code 1(.|\n)*no weights found"):
        await Cluster(data, root=root).__aenter__()
    assert not (data / "cluster.json").exists()


async def test_a_cluster_that_does_not_get_ready_says_what_is_missing(root: Path, data: Path) -> None:
    (root / "worker.py").write_text("import signal; signal.pause()")
    with pytest.raises(TimeoutError, match="api-0 sees 0 of 1 workers"):
        await Cluster(data, root=root, ready_timeout_s=10.0).__aenter__()


async def test_a_data_folder_serves_one_cluster_at_a_time(root: Path, data: Path) -> None:
    async with Cluster(data, root=root) as first:
        with pytest.raises(FolderInUse, match=f"in use by a running launcher .pid {os.getpid()}."):
            await Cluster(data, root=root).__aenter__()
        assert all(is_running(process) for process in recorded(data)), first.pids


async def test_a_taken_port_is_an_error_that_names_it(root: Path, data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=f"port {port} on 127.0.0.1 is in use"):
            await Cluster(data, port=port, root=root).__aenter__()


# The command line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_up_says_ready_once_and_ends_everything_at_a_signal(
    launch: Callable[..., Launcher], root: Path, data: Path, number: signal.Signals
) -> None:
    [port] = find_free(1)
    launcher = launch("up", "--port", str(port), "--data", str(data))
    assert launcher.read_ready_line() == f"ready http://127.0.0.1:{port}\n"
    processes = [*recorded(data), *tools_of(root)]
    launcher.process.send_signal(number)
    returncode, out, err = launcher.finish()
    assert (returncode, out) == (0, "")
    assert f'curl -N -X POST "http://127.0.0.1:{port}/v1/responses"' in err
    assert str(data / "logs") in err
    assert not any(is_running(process) for process in processes)
    assert not (data / "cluster.json").exists()


def test_after_a_killed_launcher_nothing_is_left(
    launch: Callable[..., Launcher], root: Path, data: Path
) -> None:
    launcher = launch("up", "--port", "0", "--data", str(data))
    assert launcher.read_ready_line().startswith("ready ")
    processes = [*recorded(data), *tools_of(root)]
    assert len(processes) == 5
    assert all(is_running(process) for process in processes)
    os.killpg(launcher.process.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, processes)), "all roles are gone")


def test_a_launcher_killed_while_it_starts_leaves_nothing(
    launch: Callable[..., Launcher], data: Path
) -> None:
    launcher = launch("up", "--port", "0", "--data", str(data))
    wait_until((data / "cluster.json").exists, "the first process is recorded")
    processes = recorded(data)
    os.killpg(launcher.process.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, processes)), "all roles are gone")


@pytest.mark.skipif(sys.platform != "linux", reason="the parent is watched on Linux only")
def test_up_ends_with_its_parent_where_that_was_asked_for(
    launch: Callable[..., Launcher], data: Path
) -> None:
    arguments = ("up", "--port", "0", "--data", str(data), "--end-with-parent")
    parent = launch(*arguments, before=("/bin/sh", "-c", '"$@"; exit 1', "parent"))
    assert parent.read_ready_line().startswith("ready ")
    processes = [*recorded(data), Identity(**read_cluster(data)["launcher"])]
    parent.process.kill()
    wait_until(lambda: not any(map(is_running, processes)), "the launcher and all roles are gone")
    assert not (data / "cluster.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="finds the warden in /proc")
def test_leftovers_without_a_warden_are_shown_and_the_next_up_ends_them(
    launch: Callable[..., Launcher], root: Path, data: Path
) -> None:
    launcher = launch("up", "--port", "0", "--data", str(data))
    assert launcher.read_ready_line().startswith("ready ")
    left = [*recorded(data), *tools_of(root)]
    os.kill(find_warden(launcher.process.pid), signal.SIGKILL)
    launcher.process.kill()
    launcher.process.wait()
    returncode, out, _ = launch("status", "--data", str(data)).finish()
    assert returncode == 1
    assert "is gone without ending its roles" in out
    assert "left running: valkey-0, api-0, worker-0, tool_runner-0" in out
    assert all(map(is_running, left))
    assert launch("up", "--port", "0", "--data", str(data)).read_ready_line().startswith("ready ")
    assert not any(map(is_running, left))
    assert all(map(is_running, recorded(data)))


@pytest.mark.skipif(sys.platform != "linux", reason="finds the warden in /proc")
def test_a_killed_warden_has_a_successor_once_anything_changes(
    launch: Callable[..., Launcher], data: Path
) -> None:
    launcher = launch("up", "--port", "0", "--data", str(data))
    assert launcher.read_ready_line().startswith("ready ")
    os.kill(find_warden(launcher.process.pid), signal.SIGKILL)
    worker = next(role for role in read_cluster(data)["roles"] if role["kind"] == "worker")
    os.kill(worker["pid"], signal.SIGKILL)

    def is_restarted() -> bool:
        roles = read_cluster(data)["roles"]
        return any(role["kind"] == "worker" and role["restarts"] == 1 and role["pid"] for role in roles)

    wait_until(is_restarted, "the worker runs again")
    processes = recorded(data)
    os.killpg(launcher.process.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_running, processes)), "all roles are gone")


def test_status_shows_each_role_that_runs(launch: Callable[..., Launcher], data: Path) -> None:
    assert launch("status", "--data", str(data)).finish()[:2] == (1, f"no cluster runs in {data}\n")
    assert launch("up", "--port", "0", "--data", str(data)).read_ready_line().startswith("ready ")
    returncode, out, _ = launch("status", "--data", str(data)).finish()
    assert returncode == 0
    for role in read_cluster(data)["roles"]:
        line = next(line for line in out.splitlines() if line.startswith(role["name"]))
        ports = [str(role[name] or "-") for name in ("port", "metrics_port")]
        cells = [role["name"], str(role["pid"]), *ports, "yes", "0", role["log"]]
        assert line.replace(role["log"], "").split() == cells[:-1]
        assert line.endswith(role["log"])


def test_up_in_a_folder_in_use_is_one_message_and_exit_code_1(
    launch: Callable[..., Launcher], data: Path
) -> None:
    first = launch("up", "--port", "0", "--data", str(data))
    assert first.read_ready_line().startswith("ready ")
    returncode, out, err = launch("up", "--port", "0", "--data", str(data)).finish()
    assert (returncode, out) == (1, "")
    assert err == f"antiphon: --data {data} is in use by a running launcher (pid {first.process.pid})\n"
    assert all(map(is_running, recorded(data)))


def test_up_on_a_taken_port_is_one_message_and_exit_code_1(
    launch: Callable[..., Launcher], data: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        returncode, out, err = launch("up", "--port", str(port), "--data", str(data)).finish()
    assert (returncode, out) == (1, "")
    assert err == f"antiphon: port {port} on 127.0.0.1 is in use; choose another with --port\n"


def test_up_with_a_role_dead_on_arrival_is_one_message_and_exit_code_1(
    launch: Callable[..., Launcher], root: Path, data: Path
) -> None:
    (root / "api.py").write_text("raise SystemExit('no such setting')")
    returncode, out, err = launch("up", "--port", "0", "--data", str(data)).finish()
    assert (returncode, out) == (1, "")
    assert "api-0 ended 3 times" in err
    assert "no such setting" in err
    assert "Traceback" not in err


def test_up_without_its_dependencies_says_what_is_missing(root: Path, data: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-S", "-m", "local", "up", "--data", str(data)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "fastapi" in ended.stderr
    assert "make env" in ended.stderr
    assert not data.exists()


# The real roles


def find_descendants(pid: int) -> list[Identity]:
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found, rest = [], [pid]
    while rest:
        rest += children.get(rest.pop(), [])
        found += [child for child in rest if child not in found]
    return [identify(child) for child in found]


@pytest.mark.slow
def test_of_two_cells_every_process_tells_its_metrics_where_status_says(data: Path) -> None:
    ports = ("--port", "0", "--metrics-port", str(find_free_row(9)))
    launcher = Launcher(ROOT, "up", "--cells", "2", *ports, "--data", str(data))
    try:
        assert launcher.read_ready_line().startswith("ready "), launcher.finish()
        status = Launcher(ROOT, "status", "--data", str(data)).finish()
        told = []
        for folder in (data, data / "cell-0", data / "cell-1"):
            for role in read_cluster(folder)["roles"]:
                assert role["log"] in status[1]
                if role["kind"] != "valkey":
                    told.append(role_told_at(role["metrics_port"]) == role["kind"])
        assert (status[0], told) == (0, [True] * 7)
        redis_urls = [read_cluster(data / f"cell-{name}")["redis_url"] for name in (0, 1)]
        assert all(f"Redis at {url}\n" in status[1] for url in redis_urls)
    finally:
        launcher.process.terminate()
        _, said = launcher.process.communicate(timeout=PATIENCE_S)
    assert f"metrics are on http://127.0.0.1:{ports[-1]}/metrics to " in said


def role_told_at(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
        (found,) = re.findall(r'antiphon_process_info{.*role="(\w+)"}', answer.read().decode())
    return str(found)


@pytest.mark.skipif(sys.platform != "linux", reason="finds what the roles started in /proc")
def test_of_the_real_roles_and_what_they_started_nothing_outlives_a_killed_launcher(data: Path) -> None:
    launcher = Launcher(ROOT, "up", "--port", "0", "--data", str(data))
    assert launcher.read_ready_line().startswith("ready "), launcher.finish()
    wait_until(lambda: len(find_descendants(launcher.process.pid)) > 5, "the tool runner's server runs")
    processes = find_descendants(launcher.process.pid)
    assert {process.pid for process in recorded(data)} < {process.pid for process in processes}
    os.killpg(launcher.process.pid, signal.SIGKILL)
    launcher.process.communicate()
    wait_until(lambda: not any(map(is_running, processes)), "everything is gone")


def test_the_demo_proves_that_both_parts_are_the_whole_log() -> None:
    returncode, out, err = Launcher(ROOT, "demo").finish()
    assert returncode == 0, out + err
    assert "connection cut after event 21" in out
    assert "PROVEN: both parts together are the whole log" in out


# A Valkey alone


def test_the_valkey_configuration_keeps_an_append_only_file_on_loopback(tmp_path: Path) -> None:
    folder = tmp_path / 'a "quoted" folder'
    lines = write_configuration(folder, 20_123).read_text().splitlines()
    assert {"bind 127.0.0.1", "port 20123", "appendonly yes", "appendfsync everysec", 'save ""'} <= set(lines)
    quoted = str(folder).replace('"', '\\"')
    assert f'dir "{quoted}"' in lines
    assert read_port(folder / "valkey.conf") == 20_123


def test_free_ports_are_different_and_below_those_of_outgoing_connections() -> None:
    found = find_free(20)
    assert len(set(found)) == 20
    assert all(20_000 <= port < 32_000 for port in found)


async def test_a_valkey_keeps_its_data_over_a_restart(data: Path) -> None:
    valkey = Valkey(data)
    for expected in (None, b"yes"):
        valkey.start()
        redis = RedisClient.connect(valkey.url, timeout_s=PATIENCE_S)
        assert await redis.command("GET", "kept") == expected
        await redis.command("SET", "kept", "yes", "EX", 600)
        await redis.close()
        process = identify(valkey.pid)
        valkey.stop()
        assert not is_running(process)


OWNER = """
    import signal, sys
    from pathlib import Path
    from local.valkey import Valkey

    valkey = Valkey(Path(sys.argv[1]))
    valkey.start()
    print(valkey.pid, flush=True)
    signal.pause()
"""


@pytest.fixture
def owner(data: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that owns a Valkey; its first line of output is the Valkey's pid."""
    command = [sys.executable, "-c", textwrap.dedent(OWNER), str(data)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_a_valkey_does_not_outlive_a_killed_owner(owner: "subprocess.Popen[str]") -> None:
    assert owner.stdout is not None
    server = identify(int(owner.stdout.readline()))
    assert is_running(server)
    owner.kill()
    wait_until(lambda: not is_running(server), "the Valkey is gone")


@pytest.mark.skipif(sys.platform != "linux", reason="finds the warden in /proc")
def test_a_valkey_that_did_outlive_its_owner_is_found_by_asking_and_ended(
    owner: "subprocess.Popen[str]", data: Path
) -> None:
    assert owner.stdout is not None
    left = identify(int(owner.stdout.readline()))
    os.kill(find_warden(owner.pid), signal.SIGKILL)
    owner.kill()
    owner.wait()
    assert is_running(left)
    with Valkey(data) as valkey:
        assert not is_running(left)
        assert valkey.pid != left.pid


def test_a_record_that_is_not_one_is_an_error_that_names_the_file(data: Path) -> None:
    data.mkdir()
    (data / "cluster.json").write_text('{"launcher": 1}')
    with pytest.raises(ValueError, match=r"cluster.json is not a cluster's record"):
        record.read(data)
