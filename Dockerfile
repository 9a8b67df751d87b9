FROM python:3.13-slim-trixie

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /app

COPY requirements.txt .
RUN pip install -r requirements.txt

RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /app app \
    && install --directory --owner=app --group=app data

COPY app app
COPY clickhouse clickhouse
COPY test_events.py .

USER app
ENV HOST=0.0.0.0 PORT=8006
EXPOSE 8006
# The store of the embedded engine.
VOLUME /app/data

HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ['PORT'] + '/readyz', timeout=4)"]

CMD ["python", "-m", "app.main"]
