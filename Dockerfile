# docker build -t gradviz .                            for any processor; --build-arg TORCH=cuda for an NVIDIA card
# docker run -p 8501:8501 -v gradviz:/data gradviz     docs/classroom.md says the rest; --build-arg RAY=1 for docs/cluster.md
# `make base` writes the digest of today's image behind the name, and fetches the mends of Debian and Python with that.
ARG BASE=python:3.11-slim-bookworm
FROM ${BASE} AS build
ARG TORCH=cpu
# Anything: Ray comes too, for a container of a cluster.
ARG RAY
# An index that pip asks besides its own, for a network with a mirror; none is needed.
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv && python -m venv /uv
COPY requirements.txt constraints.txt requirements.lock requirements-ray.lock requirements-build.lock /
# All but PyTorch is checked against the hashes of requirements.lock (`make lock`); see deploy/lock.py.
# Left alone, pip takes PyTorch's CUDA build, gigabytes that only an NVIDIA card can use. Where pip does not know the processor
# build either, uv fetches it: that one knows where PyTorch keeps it.
RUN /venv/bin/pip install --quiet --require-hashes --no-deps -r requirements.lock ${RAY:+-r requirements-ray.lock} && \
    torch=$(grep -oE '^torch==[0-9.]+' requirements.txt) && vision=$(grep -oE '^torchvision==[0-9.]+' requirements.txt) && \
    if [ "$TORCH" = cpu ] && ! /venv/bin/pip install --dry-run --no-deps --quiet --report - "$torch" | grep -q '+cpu"'; then \
      /uv/bin/pip install --quiet --require-hashes -r requirements-build.lock && \
      /uv/bin/uv pip install --no-cache --compile-bytecode --python /venv/bin/python --torch-backend=cpu \
        --no-deps "$torch" "$vision"; \
    fi && \
    /venv/bin/pip install --quiet -r requirements.txt && /venv/bin/pip check && \
    cd /venv/lib/python3.*/site-packages && \
    rm -rf torch/test torch/include pip pip-* && find torch/bin -type f ! -name torch_shm_manager -delete && \
    find . -type d -name tests -prune -exec rm -rf {} +
COPY app.py /app/
COPY pages /app/pages
COPY gradviz /app/gradviz
COPY .streamlit /app/.streamlit
COPY THIRD_PARTY.md /app/
RUN /venv/bin/pybabel --quiet compile -d /app/gradviz/locale -D gradviz && python -m compileall -q /app

FROM ${BASE}
# HOME: Streamlit wants a place for its own small files, and nothing but /tmp and /data can be written.
# Without the browser's address Streamlit asks a server outside for it at every start.
ENV PATH=/venv/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    STREAMLIT_SERVER_ADDRESS=0.0.0.0 STREAMLIT_SERVER_PORT=8501 STREAMLIT_BROWSER_SERVER_ADDRESS=localhost \
    GRADVIZ_DATA=/data/sets GRADVIZ_STORE=/data/runs GRADVIZ_TRAIN_IN=process
RUN useradd --uid 1000 gradviz && install -d -o gradviz /data
COPY --from=build /venv /venv
COPY --from=build /app /app
WORKDIR /app
USER gradviz
VOLUME /data
EXPOSE 8501
HEALTHCHECK --start-period=60s --interval=10s --timeout=5s CMD python -c \
  "from os import environ as e; from urllib.request import urlopen; base = e.get('STREAMLIT_SERVER_BASE_URL_PATH', '').strip('/'); \
   urlopen(f'http://127.0.0.1:{e[\"STREAMLIT_SERVER_PORT\"]}/{base}{\"/\" * bool(base)}ready', timeout=4)"
CMD ["python", "-m", "streamlit", "run", "app.py"]
