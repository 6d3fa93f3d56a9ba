# syntax=docker/dockerfile:1
# Build: `make image`, or docker build -t pvback . ; how to pin the bases and how to run it: deploy/README.md.
# Runs as any user id (OpenShift assigns one, in group 0) with a read-only root file system, if /cache and /tmp are
# mounted. Both bases are Debian of one release: the program is linked against the C library of the first.
ARG BUILD_BASE=docker.io/library/rust:1.95-bookworm
ARG BASE_IMAGE=docker.io/library/debian:bookworm-slim
# `build` compiles the wheel in the stage below. `given` takes the one in build/image/wheel, which `make image` lays
# there when `make wheel` has compiled it from the same sources: buildah is used where no registry is at hand, so no base
# with Rust either, and minutes are saved. Buildah 1.28 does not find a stage by a default: --build-arg WHEEL=build.
ARG WHEEL=build

FROM ${BUILD_BASE} AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY constraints.txt ./
# The secrets are for networks where pip needs settings and authorities of its own; no layer keeps them.
RUN --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca.pem,target=/run/secrets/ca.pem \
    python3 -m venv /build && /build/bin/pip install --no-cache-dir -c constraints.txt 'maturin>=1.9,<2'
COPY . .
RUN /build/bin/maturin build --release --locked --strip --compatibility linux --out /wheels

FROM scratch AS given
COPY build/image/wheel /wheels

FROM ${WHEEL} AS wheel

FROM ${BASE_IMAGE} AS root
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update \
    && apt-get upgrade -y \
    && apt-get install -y --no-install-recommends binutils dash netbase python3 python3-pip tzdata
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    --mount=type=bind,source=constraints.txt,target=/constraints.txt \
    --mount=type=bind,source=deploy/image,target=/image \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    --mount=type=secret,id=ca.pem,target=/run/secrets/ca.pem \
    python3 -m venv --without-pip /opt/pvback \
    && pip --python /opt/pvback/bin/python install --no-cache-dir --no-compile -c /constraints.txt \
        "$(echo /wheels/*.whl)[s3,kubernetes]" \
    && pip --python /opt/pvback/bin/python uninstall -y $(python3 /image/make_root.py --unused) \
    && python3 /image/make_root.py /opt/pvback /rootfs

# From nothing: what was taken away is in no layer.
FROM scratch
LABEL org.opencontainers.image.title="pvback" \
    org.opencontainers.image.description="Backup and restore of Kubernetes persistent volumes" \
    org.opencontainers.image.licenses="Apache-2.0"
COPY --from=root /rootfs/ /
ENV PATH=/opt/pvback/bin:/usr/bin HOME=/tmp PVBACK_CACHE_DIR=/cache PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /tmp
# A number: Kubernetes cannot tell of a name whether it is root.
USER 65532:0
ENTRYPOINT ["pvback"]
CMD ["--help"]
