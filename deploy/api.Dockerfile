# The HTTP edge, and the operators' commands: no model, no Harmony, no MCP.
FROM python:3.11-slim-bookworm AS build
COPY requirements/api.txt /requirements.txt
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir --only-binary=:all: --require-hashes -r /requirements.txt

FROM python:3.11-slim-bookworm
ENV PATH=/venv/bin:$PATH \
    PYTHONPATH=/app \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
COPY --from=build /venv /venv
COPY deploy/start.sh deploy/probe.py deploy/
COPY shared shared
COPY api api
COPY admin admin
RUN python -m compileall -q shared api admin
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["sh", "/app/deploy/start.sh"]
CMD ["python", "-m", "api", "--host", "0.0.0.0", "--port", "8000"]
