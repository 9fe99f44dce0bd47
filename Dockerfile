# distsim for the CPU. Build it in the repository's root: docker build -t distsim .
FROM python:3.11-slim-bookworm

WORKDIR /opt/distsim
# the CPU build of PyTorch saves about 5 GB; uv knows where it is
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY distsim distsim
RUN grep -v '^nvidia-\|^cuda-\|^cupy-\|^triton' constraints.txt > cpu-constraints.txt \
    && pip install --no-cache-dir uv==0.13.8 \
    && uv pip install --system --no-cache --torch-backend cpu -c cpu-constraints.txt '.[all]' \
    && useradd --create-home distsim && mkdir /work && chown distsim /work

USER distsim
WORKDIR /work
ENV RAY_USAGE_STATS_ENABLED=0
ENTRYPOINT ["distsim"]
CMD ["--help"]
