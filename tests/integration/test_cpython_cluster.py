"""The whole cluster with the CPython sandbox, as `make up PYTHON_TOOL=cpython` runs it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI
from openai.types.responses import Response, ResponseCodeInterpreterToolCall

from tests.patience import wait_until
from tests.running import RunningCluster, start_cluster
from tests.sandboxing import need_bubblewrap
from tool_runner.builtin.cpython.processes import descend, survey

TOOL: Any = {"type": "code_interpreter", "container": {"type": "auto"}}


@pytest.fixture(scope="module")
def cpython(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    need_bubblewrap()
    data = tmp_path_factory.mktemp("cpython") / "data"
    cluster = start_cluster(data, "--apis", "2", "--python-tool", "cpython")
    yield cluster
    cluster.stop()


def run(cluster: RunningCluster, code: str, node: int = 0, **more: Any) -> Response:
    with OpenAI(base_url=f"{cluster.urls[node]}/v1", api_key="any", max_retries=0) as client:
        response: Response = client.responses.create(
            model="default",
            input=f"Run this python code: {code}",
            tools=[TOOL],
            include=["code_interpreter_call.outputs"],
            **more,
        )
    return response


def shown(response: Response) -> str:
    (call,) = [item for item in response.output if isinstance(item, ResponseCodeInterpreterToolCall)]
    return "".join(output.logs for output in call.outputs or () if output.type == "logs")


def test_code_has_all_of_python_and_its_files_stay_in_a_chain_on_every_node(cpython: RunningCluster) -> None:
    first = run(
        cpython, "import statistics; open('/mnt/data/kept.txt', 'w').write('kept'); statistics.mean([1, 2])"
    )
    assert shown(first).strip() == "1.5"
    then = run(cpython, "statistics.__name__, open('kept.txt').read()", 1, previous_response_id=first.id)
    assert shown(then).strip() == "('statistics', 'kept')"


def test_when_the_tool_runner_has_been_killed_the_model_is_told_what_is_lost(cpython: RunningCluster) -> None:
    first = run(cpython, "x = 42")
    cpython.kill("tool_runner")
    then = run(cpython, "'x' in globals()", previous_response_id=first.id)
    assert shown(then).startswith("False\n[The variables and files of earlier calls are lost: ")
    again = run(cpython, "1 + 1", previous_response_id=then.id)
    assert shown(again).strip() == "2"


def test_no_process_of_a_killed_tool_runner_is_left(cpython: RunningCluster) -> None:
    run(cpython, "x = 1")
    own = {str(process.pid) for process in descend(survey(), cpython.launcher.pid)}
    interpreters = own & find_interpreters()
    assert interpreters
    cpython.kill("tool_runner")
    wait_until(lambda: not interpreters & find_interpreters(), "its interpreters end")


def find_interpreters() -> set[str]:
    """The pids of every interpreter on this machine."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"/run/interpreter.py" in path.read_bytes():
                found.add(path.parent.name)
        except OSError:
            continue
    return found
