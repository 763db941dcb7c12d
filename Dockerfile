# The app with the processor build of torch if pip is told where to find it (README, "Install"):
#   docker build --build-arg PIP_EXTRA_INDEX_URL=... -t gradviz .
FROM python:3.11-slim-bookworm AS build
ARG PIP_EXTRA_INDEX_URL
RUN python -m venv /venv
COPY requirements.txt constraints.txt /
RUN /venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check -r /requirements.txt

FROM python:3.11-slim-bookworm
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp GRADVIZ_DATA=/data/sets GRADVIZ_STORE=/data/runs
RUN useradd --uid 1000 gradviz && install -d -o gradviz /data
COPY --from=build /venv /venv
WORKDIR /app
COPY . .
USER gradviz
VOLUME /data
EXPOSE 8501
HEALTHCHECK --start-period=30s --interval=10s --timeout=3s \
  CMD ["/venv/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=2)"]
CMD ["/venv/bin/python", "-m", "streamlit", "run", "app.py", "--server.address=0.0.0.0"]
