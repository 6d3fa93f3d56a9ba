# Build: docker build -t pvback .
# Runs as any user id (OpenShift assigns one), with a read-only root file system; /tmp and the cache are volumes.
FROM rust:1.95-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY constraints.txt ./
RUN python3 -m venv /build && /build/bin/pip install --no-cache-dir -c constraints.txt 'maturin>=1.9,<2'
COPY . .
RUN /build/bin/maturin build --release --locked --compatibility linux --out /wheels

FROM python:3.13-slim-bookworm
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/
RUN pip install --no-cache-dir -c /wheels/constraints.txt "$(echo /wheels/*.whl)[s3,kubernetes]" \
    && rm -rf /wheels \
    && mkdir -p /cache && chgrp 0 /cache && chmod 2770 /cache
ENV HOME=/tmp PVBACK_CACHE_DIR=/cache PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
VOLUME ["/cache", "/tmp"]
USER 65532:0
ENTRYPOINT ["pvback"]
CMD ["--help"]
