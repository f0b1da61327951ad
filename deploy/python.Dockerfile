# CPython for the Python tool, behind bubblewrap: an MCP server on port 8000, and a Python with packages for the code.
FROM python:3.11-slim-bookworm AS build
COPY requirements/tool_runner.txt requirements/notebook.txt /
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --only-binary=:all: --require-hashes -r /tool_runner.txt \
    && python -m venv /notebook \
    && /notebook/bin/pip install --no-cache-dir --only-binary=:all: --require-hashes -r /notebook.txt

FROM python:3.11-slim-bookworm
# Debian removes a version when it has a newer one.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends bubblewrap \
    && rm -rf /var/lib/apt/lists/*
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
COPY --from=build /venv /venv
COPY --from=build /notebook /notebook
COPY shared shared
COPY tool_runner tool_runner
RUN python -m compileall -q shared tool_runner
USER 10001:10001
CMD ["python", "-m", "tool_runner.builtin.cpython", "--http", "8000", "--host", "0.0.0.0", "--python", "/notebook/bin/python"]
