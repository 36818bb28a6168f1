# kraken-bids with everything that it runs: Python, PyTorch (CPU) and MRtrix3.
#
#   docker build -t kraken-bids .
#   docker build -t kraken-bids:gpu --build-arg TORCH=torch==2.13.0 .
#
# pip must find the CPU build of PyTorch: containers/README.md says how to name its index.

ARG BASE=python:3.11-slim-bookworm

# ---- the wheel of this project
FROM ${BASE} AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY kraken_bids kraken_bids
COPY workflows workflows
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# ---- an environment that holds the wheel and what it needs, in the exact versions of the lock
FROM ${BASE} AS environment
ARG TORCH=torch==2.13.0+cpu
ARG PIP_EXTRA_INDEX_URL
RUN python -m venv /opt/kraken-bids/venv
ENV PATH=/opt/kraken-bids/venv/bin:$PATH
# PyTorch first and alone: its layer is large and seldom changes.
RUN pip install --no-cache-dir "${TORCH}"
COPY containers/requirements.lock /tmp/requirements.lock
COPY --from=wheel /wheels /tmp/wheels
RUN pip install --no-cache-dir --constraint /tmp/requirements.lock /tmp/wheels/*.whl

# ---- the image
FROM ${BASE}
RUN apt-get update \
    && apt-get install -y --no-install-recommends mrtrix3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=environment /opt/kraken-bids/venv /opt/kraken-bids/venv
COPY containers/smoke_test.sh /opt/kraken-bids/smoke_test.sh

# Nothing lies in a home folder, and nothing is written but to /tmp, the outputs and the work
# folder: any user id, a read-only root and a missing home will do.
ENV PATH=/opt/kraken-bids/venv/bin:$PATH \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    NO_ET=1 \
    MPLCONFIGDIR=/tmp/kraken-bids/matplotlib \
    NIPYPE_CONFIG_DIR=/tmp/kraken-bids/nipype \
    XDG_CACHE_HOME=/tmp/kraken-bids/cache

ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="kraken-bids" \
      org.opencontainers.image.description="BIDS App: measured and predicted connectomes from fMRIPrep, QSIPrep and FreeSurfer derivatives" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

ENTRYPOINT ["/opt/kraken-bids/venv/bin/kraken-bids"]
