# The model side with vLLM, for NVIDIA GPUs; no HTTP of ours, no MCP.
#
# It is based on vLLM's own image of the release that pyproject.toml names, not on the wheels alone
# (requirements/vllm-gpu.txt, which `make up` uses). That image contains the kernels that the wheels would
# compile or download at the first request, and the compiler for those that depend on the card; and it is what
# vLLM tests. Our own packages are in a folder before vLLM's on the path, with the same pins as everywhere.
FROM python:3.12-slim-bookworm AS build
COPY requirements/worker.txt /requirements.txt
RUN pip install --no-cache-dir --only-binary=:all: --require-hashes --target /site -r /requirements.txt

FROM vllm/vllm-openai:v0.32.0
# A user without a name needs USER, which PyTorch reads, and HOME for what is compiled at the first start.
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
# Fails at build time if /site is not for the image's Python, or if its vLLM is not the pinned version.
RUN python3 -c 'import arq, hiredis, msgspec, openai_harmony, pydantic_settings, zstandard' \
    && python3 -c 'import importlib.metadata as m; assert m.version("vllm").split("+")[0] == "0.32.0"' \
    && python3 -m compileall -q shared worker \
    && mkdir /models /cache \
    && chown 10001:10001 /models /cache
USER 10001:10001
ENTRYPOINT ["sh", "/app/deploy/start.sh"]
CMD ["python3", "-m", "worker"]
