"""`python -m local status`: shows what runs in a data folder, as a table, and that of each cell of a router.

Only reads; ends and repairs nothing.
"""

from pathlib import Path

from local import record
from local.processes import is_running
from local.record import ClusterRecord, RoleRecord
from shared.redis_url import redact
from shared.table import lay_out

_HEAD = ("role", "pid", "port", "metrics", "alive", "restarts", "log")


def show(data: Path) -> int:
    """Prints the table; returns 0 if the launcher and all its processes are alive, else 1.

    Raises ValueError.
    """
    found = record.read(data)
    if found is None:
        print(f"no cluster runs in {data}")
        return 1
    codes = [_show(found)]
    if any(role.kind == "router" for role in found.roles):
        for name, folder in record.cells_in(data).items():
            print(f"\ncell {name}, in {folder}")
            codes.append(show(folder))
    return max(codes)


def _show(found: ClusterRecord) -> int:
    rows = [_make_row(role) for role in found.roles]
    print("\n".join(lay_out([_HEAD, *rows])))
    return _judge(found)


def _judge(found: ClusterRecord) -> int:
    alive = [role.name for role in found.roles if role.identity and is_running(role.identity)]
    if is_running(found.launcher):
        where = (
            f"Redis at {redact(found.redis_url)}" if found.redis_url else "each cell has a Redis of its own"
        )
        print(f"launcher {found.launcher.pid} runs; {where}")
        return 0 if len(alive) == len(found.roles) else 1
    print(f"launcher {found.launcher.pid} is gone without ending its roles")
    if alive:
        print(f"left running: {', '.join(alive)}; the next `python -m local up` here ends them")
    return 1


def _make_row(role: RoleRecord) -> tuple[str, ...]:
    is_alive = role.identity is not None and is_running(role.identity)
    columns = (role.pid, role.port, role.metrics_port, "yes" if is_alive else "no", role.restarts, role.log)
    return (role.name, *("-" if column is None else str(column) for column in columns))
