# kraken-bids with everything that it runs: Python, PyTorch (CPU), MRtrix3 and the atlases.
#
#   docker build -t kraken-bids .
#   docker build -t kraken-bids:gpu --build-arg TORCH=torch==2.13.0 .
#
# pip must find the CPU build of PyTorch: containers/README.md says how to name its index, and how
# to build with a model, or where the atlases' addresses cannot be reached.

ARG BASE=python:3.11-slim-bookworm

# ---- the wheel of this project
FROM ${BASE} AS wheel
LABEL kraken-bids.build=""
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY kraken_bids kraken_bids
COPY workflows workflows
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

# ---- what the program needs: what changes seldom first, Python packages in the lock's versions
FROM ${BASE} AS environment
LABEL kraken-bids.build=""
RUN apt-get update \
    && apt-get install -y --no-install-recommends mrtrix3 \
    && rm -rf /var/lib/apt/lists/*
ARG TORCH=torch==2.13.0+cpu
ARG PIP_EXTRA_INDEX_URL
RUN python -m venv /opt/kraken-bids/venv
ENV PATH=/opt/kraken-bids/venv/bin:$PATH
COPY containers/requirements.lock containers/cuda.lock /opt/kraken-bids/
RUN pip install --no-cache-dir --constraint /opt/kraken-bids/requirements.lock \
        --constraint /opt/kraken-bids/cuda.lock "${TORCH}"
COPY pyproject.toml /tmp/build/
RUN python -c 'import tomllib; \
    print(*tomllib.load(open("/tmp/build/pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
        > /tmp/build/requirements.txt \
    && pip install --no-cache-dir --constraint /opt/kraken-bids/requirements.lock \
        --constraint /opt/kraken-bids/cuda.lock --requirement /tmp/build/requirements.txt \
    && rm -r /tmp/build

# ---- with the program
FROM environment AS program
COPY --from=wheel /wheels /tmp/wheels
COPY containers/boutiques.py containers/smoke_test.sh /opt/kraken-bids/
RUN pip install --no-cache-dir --no-deps /tmp/wheels/*.whl \
    && pip check \
    && python /opt/kraken-bids/boutiques.py > /opt/kraken-bids/boutiques.json \
    && rm -r /tmp/wheels

# ---- atlases and models, by the names of `kraken-model fetch --list`: from their public
# ---- addresses, or from the folder resources/ beside this file; either way checked by SHA-256
FROM program AS resources
ARG RESOURCES="shen268 coco439"
COPY pyproject.toml resource[s] /kit/
RUN mkdir /opt/kraken-bids/resources; \
    export KRAKEN_BIDS_RESOURCES=/kit; \
    [ -z "${RESOURCES}" ] \
    || { kraken-model fetch --no-convert ${RESOURCES} >/dev/null \
        && kraken-model fetch --output /opt/kraken-bids/resources ${RESOURCES}; } \
    || { echo "/kit is the folder resources/ beside the Dockerfile." \
        "To build without them: --build-arg RESOURCES=" >&2; exit 1; }

# ---- the image: layers that change with the program are small
FROM program
COPY --from=resources /opt/kraken-bids/resources /opt/kraken-bids/resources
# All lies in one folder; its programs are found by a login shell, too, which knows no other PATH,
# and the program itself where BIDS Apps have it.
RUN ln -s /opt/kraken-bids/venv/bin/kraken-* /usr/local/bin/ \
    && ln -s /opt/kraken-bids/venv/bin/kraken-bids /run.py

# Nothing lies in a home folder, and nothing is written but to /tmp, the outputs and the work
# folder: any user id, a read-only root and a missing home will do.
ENV LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONNOUSERSITE=1 \
    NO_ET=1 \
    KRAKEN_BIDS_RESOURCES=/opt/kraken-bids/resources \
    MPLCONFIGDIR=/tmp/kraken-bids/matplotlib \
    NIPYPE_CONFIG_DIR=/tmp/kraken-bids/nipype \
    XDG_CACHE_HOME=/tmp/kraken-bids/cache

ARG BASE
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="kraken-bids" \
      org.opencontainers.image.description="BIDS App: measured and predicted connectomes from fMRIPrep, QSIPrep and FreeSurfer derivatives" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.base.name="${BASE}"

ENTRYPOINT ["/run.py"]
