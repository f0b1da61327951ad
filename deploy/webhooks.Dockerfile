# Delivers the ends of responses; meets Redis and the receivers only.
FROM python:3.11-slim-bookworm AS build
COPY requirements/webhooks.txt /requirements.txt
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
COPY webhooks webhooks
RUN python -m compileall -q shared webhooks
USER 10001:10001
ENTRYPOINT ["sh", "/app/deploy/start.sh"]
CMD ["python", "-m", "webhooks"]
