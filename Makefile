# The commands that the README names. Only git, make and Python 3.11 or later are presumed.
.DEFAULT_GOAL := help
PYTHON ?= python3
RUN := .venv/bin/python
MANAGE := $(RUN) manage.py

help:  ## Show this help
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 22

# The layers of the requirements, each with all of the one before: what serves, what tests, what a developer uses.
EMBEDDED := .venv/embedded
TESTING := .venv/testing
INSTALLED := .venv/development
.venv/%: requirements/%.txt requirements/installer.txt requirements/install.py
	@$(PYTHON) requirements/install.py $*
	@touch $@

install: $(INSTALLED)  ## Create the virtual environment with all that a developer uses

run: $(EMBEDDED)  ## Run the service on port 5001 and a summarizer, with example users in an embedded Postgres
	@$(MANAGE) develop

test: $(TESTING)  ## Run the fast tests with coverage, on a Postgres of their own
	@$(MANAGE) test -n auto --dist loadgroup -m "not slow" --cov-fail-under=100

test-slow: $(INSTALLED)  ## Run the slow tests, and the properties with many examples
	@$(MANAGE) test -n auto --dist loadgroup -m "slow or hypothesis" --no-cov

test-all: test test-slow  ## Run all tests

fuzz: $(INSTALLED)  ## Check the service against its OpenAPI document with many examples: FUZZ_EXAMPLES=200
	@FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-200} $(RUN) -m pytest -q -s -p no:randomly -m slow project/tests/test_schemathesis.py

chaos: $(INSTALLED)  ## Break the database, the workers and the network under load: FAULTS="frozen lock", by default all
	@$(RUN) -m benchmarks.chaos $(FAULTS)

check: $(INSTALLED)  ## Run flake8, black, isort, mypy, import-linter, bandit and a search for secrets
	@$(RUN) -m flake8 . .ci/newcomer
	@$(RUN) -m black --check --diff --quiet . .ci/newcomer
	@$(RUN) -m isort --check-only --diff --quiet . .ci/newcomer
	@$(RUN) -m mypy
	@report=$$(.venv/bin/lint-imports --no-logo --no-cache) || { echo "$$report"; exit 1; }
	@$(RUN) -m bandit --quiet --configfile pyproject.toml --severity-level medium --recursive project manage.py serve.py gunicorn.conf.py migrations
	@$(RUN) .ci/secrets.py

lint-deploy: $(INSTALLED)  ## Check Dockerfiles, shell scripts, Compose files and the pipeline
	@.venv/bin/hadolint Dockerfile Dockerfile.prod Dockerfile.test project/db/Dockerfile
	@PATH=".venv/bin:$$PATH" shellcheck entrypoint.sh release.sh deploy/upgrade.sh .ci/run .ci/pipeline
	@.venv/bin/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml docker-compose.prod.yml
	@.venv/bin/check-jsonschema --builtin-schema vendor.gitlab-ci --data-transform gitlab-ci .gitlab-ci.yml

pipeline:  ## Run the pipeline of .gitlab-ci.yml here, by Docker and npx: JOBS="lint unit", by default all
	@.ci/pipeline $(JOBS)

upgrade:  ## Build the production image and replace what runs of it, one instance after the other
	@deploy/upgrade.sh --build

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
	@$(RUN) -m benchmarks.scale --users $(USERS) $(SCALE)

COMPILE := $(RUN) -m uv pip compile --quiet --only-binary :all: --no-header
LOCK := $(COMPILE) --universal --python-version 3.11 --generate-hashes --no-strip-extras --upgrade
lock: $(INSTALLED)  ## Lock the newest versions that the requirements allow, and look for their wheels
	@$(LOCK) requirements/production.in --output-file requirements/production.txt
	@$(LOCK) requirements/embedded.in --output-file requirements/embedded.txt -c requirements/production.txt
	@$(LOCK) requirements/testing.in --output-file requirements/testing.txt -c requirements/embedded.txt
	@$(LOCK) requirements/development.in --output-file requirements/development.txt -c requirements/testing.txt
	@$(LOCK) requirements/installer.in --output-file requirements/installer.txt -c requirements/development.txt
	@$(LOCK) benchmarks/peers/requirements.in --output-file benchmarks/peers/requirements.txt
	@$(MAKE) --no-print-directory wheels

PLATFORMS := x86_64-manylinux_2_28 aarch64-manylinux_2_28 aarch64-apple-darwin
wheels: $(INSTALLED)  ## Look for a wheel of each locked package, for each Python and platform that is promised
	@for platform in $(PLATFORMS); do for python in 3.11 3.12 3.13 3.14; do \
		echo "Python $$python, $$platform"; \
		$(COMPILE) --no-deps --python-platform $$platform --python-version $$python \
			requirements/installer.txt requirements/development.txt >/dev/null || exit 1; \
	done; done

clean:  ## Stop the embedded Postgres and remove what the other commands made, data included
	@if [ -x $(RUN) ]; then env -u DATABASE_URL -u APP_SETTINGS $(MANAGE) postgres stop; fi
	rm -rf .venv var .pytest_cache .mypy_cache .hypothesis .coverage coverage.xml
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help install run test test-slow test-all fuzz chaos check lint-deploy pipeline upgrade bench bench-scale lock wheels clean
