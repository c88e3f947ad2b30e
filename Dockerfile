# CPU:   docker build -t splatstream .
# CUDA:  docker build -t splatstream:cuda --build-arg BASE=nvidia/cuda:12.8.1-devel-ubuntu24.04 \
#            --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
# deploy/smoke-test.sh IMAGE says whether an image works; docs/operations.md how to run it.
ARG BASE=debian:bookworm-slim
FROM ${BASE}

# libGL and GLib are OpenCV's; gsplat's kernels are compiled at first use where there is a GPU,
# with a compiler that only the CUDA base needs.
ARG BASE
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv libgl1 libglib2.0-0 \
    && case "${BASE}" in nvidia/*) apt-get install -y --no-install-recommends g++ ninja-build python3-dev ;; esac \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/splatstream
# Dependencies first: they change seldom and take the time.
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY configs/__init__.py configs/__init__.py
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python3 -m venv .venv \
    && .venv/bin/pip install --no-cache-dir --extra-index-url "${TORCH_INDEX}" -c constraints.txt .
COPY . .
RUN .venv/bin/pip install --no-cache-dir --no-deps . \
    && useradd --system --create-home splatstream \
    && install -d -o splatstream -g splatstream -m 0700 /data

USER splatstream
ENV PATH=/opt/splatstream/.venv/bin:$PATH \
    XDG_DATA_HOME=/data \
    NUMBA_CACHE_DIR=/data/kernels \
    OMP_WAIT_POLICY=passive
VOLUME /data
HEALTHCHECK --start-period=10m --interval=30s --timeout=15s \
    CMD ["splatstream", "status", "--ingest", "tcp://127.0.0.1:5555"]
ENTRYPOINT ["splatstream"]
# Loopback, as everywhere: with --network host a robot's own programs reach it.
CMD ["serve", "--log-json"]
