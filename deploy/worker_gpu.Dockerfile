# The model side with vLLM, for NVIDIA GPUs; no HTTP of ours, no MCP.
#
# It stands on vLLM's own image of the release that pyproject.toml names, not on wheels alone
# (requirements/vllm-gpu.txt, which `make up` uses): kernels that the wheels would compile or fetch at the
# first request are in it, with the compiler for those that depend on the card, and it is what vLLM
# tests. What is ours lies in a folder of its own, before vLLM's packages: the same pins as everywhere.
FROM python:3.12-slim-bookworm AS build
COPY requirements/worker.txt /requirements.txt
RUN pip install --no-cache-dir --only-binary=:all: --require-hashes --target /site -r /requirements.txt

FROM vllm/vllm-openai:v0.32.0
# A user without a name needs USER (PyTorch asks for it), and HOME for what is compiled at the first start.
ENV PYTHONPATH=/app:/site \
    HOME=/cache \
    USER=antiphon \
    HF_HOME=/models \
    HF_HUB_OFFLINE=1 \
    VLLM_NO_USAGE_STATS=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    ANTIPHON_ENGINE=vllm \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
COPY --from=build /site /site
COPY deploy/start.sh deploy/probe.py deploy/
COPY shared shared
COPY worker worker
# Fails here, not at a customer's: /site is for the image's Python, and its vLLM is the one that is pinned.
RUN python3 -c 'import arq, hiredis, msgspec, openai_harmony, pydantic_settings, zstandard' \
    && python3 -c 'import importlib.metadata as m; assert m.version("vllm").split("+")[0] == "0.32.0"' \
    && python3 -m compileall -q shared worker \
    && mkdir /models /cache \
    && chown 10001:10001 /models /cache
USER 10001:10001
ENTRYPOINT ["sh", "/app/deploy/start.sh"]
CMD ["python3", "-m", "worker"]
