# Millrace as an image: `docker build -t millrace .`, or `make image` for one with its version and revision on it.
# It runs with a read-only root, without capabilities and as a numeric user, which Kubernetes can see is not root.
#
# slim, not alpine: aiokafka, faust-streaming and google-re2 publish no wheels for musl, so that alpine would need a
# compiler and build by hand what is tested here as wheels. Any base with Python 3.11 or later, venv and glibc will do.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
# Tables on disk, traces and the schema registry are in, so that one image does all that settings can ask for; EXTRAS="" leaves them out.
ARG EXTRAS="registry rocksdb traces"
# uv comes from the package index like all else: no second registry is needed.
ARG UV_VERSION=0.13.9
ENV UV_PYTHON_DOWNLOADS=never UV_PYTHON=python3 UV_LINK_MODE=copy UV_NO_CACHE=1 UV_FROZEN=1
RUN python3 -m venv /build && /build/bin/pip install --no-cache-dir --disable-pip-version-check uv==${UV_VERSION}
WORKDIR /src
# What is needed comes first: it changes seldom. uv verifies each file by its hash in the lock file.
COPY pyproject.toml uv.lock ./
RUN UV_PROJECT_ENVIRONMENT=/app /build/bin/uv sync --no-default-groups --no-install-project \
        $(for extra in ${EXTRAS}; do echo "--extra ${extra}"; done) \
    && UV_PROJECT_ENVIRONMENT=/build /build/bin/uv sync --only-group build --inexact
COPY . .
# Compiled here, because nothing can be written where it runs. The list of what is in /app, with each licence, is made
# of the environment itself; the texts of the licences are in its .dist-info folders.
RUN /build/bin/uv build --wheel --no-build-isolation --python /build/bin/python --out-dir /dist \
    && /build/bin/uv pip install --python /app/bin/python --no-deps --no-index /dist/*.whl \
    && mkdir -p /app/share/millrace \
    && /build/bin/cyclonedx-py environment --gather-license-texts --output-reproducible \
        -o /app/share/millrace/sbom.cdx.json /app/bin/python \
    && /app/bin/python -m compileall -q -j 0 /app

FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="Millrace" \
      org.opencontainers.image.description="Put a request on a Kafka topic; get a fetched, validated, checked answer on another." \
      org.opencontainers.image.licenses="Apache-2.0" \
      millrace.sbom="/app/share/millrace/sbom.cdx.json" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# A number that no account has: `runAsNonRoot` can be verified, and files of the host belong to somebody else.
USER 10001:10001
WORKDIR /app
EXPOSE 6066
# Alive, not ready: an engine that restarts what is unhealthy must not do so while Kafka is away. No shell, no curl, and
# no proxy from the environment.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s CMD ["/app/bin/python", "-Ic", "import os, sys, http.client as h; c = h.HTTPConnection('127.0.0.1', int(os.environ.get('MILLRACE_WEB_PORT', 6066)), timeout=2); c.request('GET', '/livez'); sys.exit(c.getresponse().status != 200)"]
# No shell in between: SIGTERM reaches the worker itself.
ENTRYPOINT ["/app/bin/millrace"]
CMD ["worker"]
