# Build: docker build -t tasks-gateway . Runs as uid 10001 on a read-only root: what it writes goes to /data (the embedded
# Redis; unused with REDIS_URL or REDIS_ADDR) and /tmp. As others can reach it there, it starts only when it is told whom
# to let in (JWT_SECRET, JWKS_URL, JWKS_FILE or API_KEYS=true), or AUTH=none says: anybody.
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY gateway/ gateway/
COPY workers_sdk/ workers_sdk/
RUN python -m venv /opt/tasks-gateway \
    && /opt/tasks-gateway/bin/python -m pip install --no-cache-dir --disable-pip-version-check .

FROM python:3.13-slim
# curl is for the example worker.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends curl \
    && rm -rf /var/lib/apt/lists/* \
    && install --directory --owner=10001 --group=10001 --mode=0700 /data
COPY --from=build /opt/tasks-gateway /opt/tasks-gateway
COPY examples/worker.sh /opt/tasks-gateway/examples/worker.sh
ENV PATH=/opt/tasks-gateway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOST=0.0.0.0 \
    PORT=8080 \
    DATA_DIR=/data
USER 10001:10001
WORKDIR /data
VOLUME ["/data"]
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["python", "-m", "gateway", "health"]
CMD ["gateway", "serve"]
