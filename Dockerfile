# Two stages: the first installs and prepares, the second only carries the
# result. Nothing in the image needs to be written at run time but /tmp (and
# /data, where SQLite is used), so it runs with a read-only root.

FROM python:3.13-slim-trixie AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1

WORKDIR /app

# Dependencies first: they change less often than the code. Every file is
# checked against its hash, and nothing is compiled, so no compiler is needed.
# The environment has no pip of its own; nothing is installed after this.
# Bytecode is made here because a read-only root can't keep it, and without the
# times of its sources, so that every build gives the same (docs/development/releasing.md).
COPY requirements.txt ./
COPY requirements/tracing.txt requirements/
RUN python -m venv --without-pip /venv \
    && python -m pip --python /venv/bin/python install --no-compile \
        --require-hashes --only-binary :all: \
        --requirement requirements.txt --requirement requirements/tracing.txt \
    && /venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /venv

COPY manage.py ./
COPY licenseserver licenseserver
COPY licenses licenses

# The settings want a key to load at all; this one signs nothing and stays in
# this stage.
RUN SECRET_KEY=not-a-secret-only-for-collecting-static-files \
        /venv/bin/python manage.py collectstatic --noinput \
    && /venv/bin/python -m compileall -q -f --invalidation-mode unchecked-hash manage.py licenseserver licenses


FROM python:3.13-slim-trixie

ENV PATH="/venv/bin:${PATH}" \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    LICENSE_DB_PATH=/data/licenses.db

# The code belongs to root and can't be changed by the server that runs it.
# Only /data is the server's own, for SQLite; PostgreSQL leaves it empty.
RUN install --directory --owner=10001 --group=10001 --mode=0700 /data
COPY --from=build /venv /venv
COPY --from=build /app /app
COPY LICENSE NOTICE /app/

WORKDIR /app

# A number, so that Kubernetes can tell that it isn't root.
USER 10001:10001

EXPOSE 8000

# Is the process alive? Not "is the database up": an orchestrator that replaces
# unhealthy containers would then replace every one of them at each failover.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=4)"]

# Migrations are a step of their own (see docker-compose.yml): several replicas
# that start at once must not race for them.
CMD ["python", "-m", "licenseserver"]

# Last, so that a new version number rebuilds nothing but itself.
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="licenseserver" \
      org.opencontainers.image.description="Floating-license server: borrow a seat, work, return it." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
