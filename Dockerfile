# syntax=docker/dockerfile:1
# Build: docker build -t pvback .
# Runs as any user id (OpenShift assigns one, in group 0) with a read-only root file system, if /cache and /tmp are
# mounted; see deploy/README.md.
FROM rust:1.95-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY constraints.txt ./
RUN python3 -m venv /build && /build/bin/pip install --no-cache-dir -c constraints.txt 'maturin>=1.9,<2'
COPY . .
RUN /build/bin/maturin build --release --locked --strip --compatibility linux --out /wheels

FROM python:3.13-slim-bookworm
LABEL org.opencontainers.image.title="pvback" \
    org.opencontainers.image.description="Backup and restore of Kubernetes persistent volumes" \
    org.opencontainers.image.licenses="Apache-2.0"
# Mounted, not copied: a layer would keep the wheel.
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    pip install --no-cache-dir -c /constraints.txt "$(echo /wheels/*.whl)[s3,kubernetes]" \
    && mkdir /cache && chgrp 0 /cache && chmod 2770 /cache
ENV HOME=/tmp PVBACK_CACHE_DIR=/cache PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /tmp
# A number: Kubernetes cannot tell of a name whether it is root.
USER 65532:0
ENTRYPOINT ["pvback"]
CMD ["--help"]
