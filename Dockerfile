# `vitlora serve` in a container, built from the wheel: no compiler, no pip cache, no tool of the pipeline, no root.
#
#   docker build -t vitlora .
#   docker run --rm --read-only -p 127.0.0.1:8000:8000 -v "$PWD/models/export:/model:ro" -e VITLORA_API_KEY vitlora

FROM python:3.13.7-slim-bookworm AS build
WORKDIR /build
COPY requirements-serve.lock ./
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --require-hashes --requirement requirements-serve.lock
COPY pyproject.toml LICENSE ./
COPY src src
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheel . \
 && /venv/bin/pip install --no-cache-dir --no-deps /wheel/*.whl \
 && /venv/bin/pip uninstall --yes pip

FROM python:3.13.7-slim-bookworm
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
  CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["vitlora", "serve", "--host", "0.0.0.0"]
# The model is mounted, not built in: the same image serves any.
CMD ["model=/model"]
