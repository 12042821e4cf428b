# A first, plain image. Build: docker build -t millrace .
ARG BASE=python:3.13-slim
FROM ${BASE}

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /app
RUN python3 -m pip install --no-cache-dir uv
COPY pyproject.toml uv.lock README.md LICENSE ./
RUN uv sync --frozen --no-dev --no-install-project
COPY models models
COPY streams streams
COPY agents agents
RUN uv sync --frozen --no-dev

RUN useradd --system --uid 10001 millrace
USER millrace
ENV PATH=/app/.venv/bin:$PATH
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s \
    CMD ["python3", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:6066/livez', timeout=2)"]
ENTRYPOINT ["millrace"]
CMD ["worker"]
