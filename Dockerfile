# The development image: the tools of requirements/development.txt, and the code as docker-compose.yml mounts it.
FROM python:3.13-slim-bookworm

ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PATH=/opt/venv/bin:$PATH \
    APP_SETTINGS=project.config.DevelopmentConfig \
    FLASK_APP=manage.py

# The requirements before the code: a change of the code does not install them again.
COPY requirements/ /tmp/requirements/
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --require-hashes --only-binary :all: \
       --requirement /tmp/requirements/development.txt \
    && useradd --uid 1000 --create-home app

WORKDIR /usr/src/app
COPY . .

# The mounted code belongs to whoever checked it out: what the tools write goes elsewhere.
ENV COVERAGE_FILE=/tmp/.coverage \
    HYPOTHESIS_STORAGE_DIRECTORY=/tmp/hypothesis \
    PYTEST_ADDOPTS="-o cache_dir=/tmp/pytest_cache"

USER 1000:1000
EXPOSE 5001
ENTRYPOINT ["/usr/src/app/entrypoint.sh"]
CMD ["python", "manage.py", "run", "--host", "0.0.0.0", "--reload", "--no-debugger"]
