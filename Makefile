# The commands that the README names. Only git, make and Python 3.11 or later are presumed.
.DEFAULT_GOAL := help
PYTHON ?= python3
INSTALLED := .venv/installed
RUN := .venv/bin/python
MANAGE := $(RUN) manage.py

help:  ## Show this help
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

$(INSTALLED): requirements/production.txt requirements/testing.txt requirements/development.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is needed, for example: make PYTHON=python3.13 run" if sys.version_info < (3, 11) else 0)'
	@echo "Installing into .venv: a minute, once."
	@$(PYTHON) -m venv .venv
	@$(RUN) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements/development.txt
	@touch $@

install: $(INSTALLED)  ## Create the virtual environment and install the locked requirements

run: $(INSTALLED)  ## Run the service on port 5001 and a summarizer, with example users in an embedded Postgres
	@trap '{ kill $$worker && wait $$worker; } 2>/dev/null; [ -n "$$DATABASE_URL" ] || $(MANAGE) postgres stop' EXIT; \
	trap 'exit 0' INT TERM; \
	$(MANAGE) create_db && $(MANAGE) db upgrade && $(MANAGE) seed_db && \
	echo "Users:   curl -s localhost:$${PORT:-5001}/users" && \
	echo "Checks:  make test" && \
	echo "Stop:    Ctrl-C; what you wrote stays in var/" && \
	{ $(MANAGE) summarize & worker=$$!; } && \
	$(MANAGE) run --reload --no-debugger

test: $(INSTALLED)  ## Run the test suite with coverage, on a Postgres of its own
	@$(MANAGE) test -n auto --cov-fail-under=100

fuzz: $(INSTALLED)  ## Check the service against its OpenAPI document with many examples: FUZZ_EXAMPLES=200
	@FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-200} $(RUN) -m pytest -q -s -p no:randomly project/tests/test_schemathesis.py

chaos: $(INSTALLED)  ## Break the database, the workers and the network under load: FAULTS="frozen lock", by default all
	@$(RUN) -m benchmarks.chaos $(FAULTS)

check: $(INSTALLED)  ## Run flake8, black, isort, mypy, bandit and a search for secrets
	@$(RUN) -m flake8
	@$(RUN) -m black --check --diff --quiet .
	@$(RUN) -m isort --check-only --diff --quiet .
	@$(RUN) -m mypy
	@$(RUN) -m bandit --quiet --configfile pyproject.toml --severity-level medium --recursive project manage.py serve.py gunicorn.conf.py migrations
	@$(RUN) .ci/secrets.py

lint-deploy: $(INSTALLED)  ## Check Dockerfiles, shell scripts, Compose files and the pipeline
	@.venv/bin/hadolint Dockerfile Dockerfile.prod project/db/Dockerfile
	@.venv/bin/shellcheck entrypoint.sh release.sh .ci/run
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yml docker-compose.prod.yml
	@.venv/bin/check-jsonschema --quiet --builtin-schema vendor.gitlab-ci --data-transform gitlab-ci .gitlab-ci.yml

PEERS := var/bench-venv
$(PEERS)/installed: benchmarks/peers/requirements.txt $(INSTALLED)
	@echo "Installing the peers into $(PEERS): some seconds, once."
	@$(RUN) -m uv venv --quiet --clear --python $(RUN) $(PEERS)
	@$(RUN) -m uv pip sync --quiet --require-hashes --compile-bytecode --python $(PEERS)/bin/python $<
	@touch $@

bench: $(PEERS)/installed  ## Measure the service beside its peers, in 5 minutes: BENCH="--rounds 3 --only granian"
	@$(RUN) -m benchmarks.compare $(BENCH)

USERS ?= 1000000
bench-scale: $(INSTALLED)  ## Measure calls while the table grows to USERS=1000000
	@$(RUN) -m benchmarks.scale --users $(USERS)

COMPILE := $(RUN) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade
lock: $(INSTALLED)  ## Lock the newest versions that the requirements allow
	@$(COMPILE) requirements/production.in --output-file requirements/production.txt
	@$(COMPILE) requirements/testing.in --output-file requirements/testing.txt -c requirements/production.txt
	@$(COMPILE) requirements/development.in --output-file requirements/development.txt -c requirements/testing.txt
	@$(COMPILE) benchmarks/peers/requirements.in --output-file benchmarks/peers/requirements.txt

clean:  ## Stop the embedded Postgres and remove what the other commands made, data included
	@if [ -x $(RUN) ]; then env -u DATABASE_URL -u APP_SETTINGS $(MANAGE) postgres stop; fi
	rm -rf .venv var .pytest_cache .mypy_cache .hypothesis .coverage coverage.xml
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help install run test fuzz chaos check lint-deploy bench bench-scale lock clean
