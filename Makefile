# `make demo` and `make test` need nothing but Python 3.11+ and make; Apache Kafka comes by Maven where Java is.
.DEFAULT_GOAL := help
# A process compiles what it imports once and not at each start, whatever the environment says: 1.5 s of CPU, not 3.
export PYTHONDONTWRITEBYTECODE :=
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two at a time, a file to a process, each with a broker of its own: three take as long, as the CPU is busy with two.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder
UV := $(shell command -v uv || echo .tools/bin/uv)

.PHONY: help setup demo test test-exactly-once test-fast test-fast-streams test-fast-others test-unit test-lowest test-containers test-python report-python faults soak compat image coverage lint format bench bench-peers clean licences sbom audit docs

help: ## Say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.done ## Install everything into .venv

$(VENV)/.done: pyproject.toml uv.lock
	@command -v uv >/dev/null || test -x .tools/bin/uv || { $(PYTHON) -m venv .tools && .tools/bin/python -m pip install --quiet uv; }
	@$(UV) sync --frozen --quiet --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')"
	@touch $@

demo: setup ## See it work: a broker, an upstream, a worker, 2,000 requests
	@$(BIN)/python -m millrace demo

test: setup ## All tests, on the best broker found
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-fast: setup ## The unit tests that are not marked slow: 40 s, no broker
	@$(MAKE) --no-print-directory -j2 test-fast-streams test-fast-others

# Two plain runs instead of one side by side: each imports its own half alone, and no third process collects reports.
FAST := $(BIN)/python -m pytest -q -p no:xdist -p no:cacheprovider -m "not slow"
test-fast-streams: setup
	@$(FAST) tests/unit/streams

test-fast-others: setup
	@$(FAST) --ignore tests/unit/streams tests/unit

test-exactly-once: setup ## MILLRACE_DELIVERY=exactly-once through 20 kills, frozen workers and broker restarts: ten minutes
	EXACTLY_ONCE_KILLS=20 $(BIN)/python -m pytest -s tests/integration/test_exactly_once.py

test-unit: setup ## All unit tests: a few minutes, no broker
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) tests/unit

# Of what Millrace imports, the oldest that pyproject.toml allows; the tools of the tests are the newest.
LOWEST := $(VENV)-lowest
test-lowest: setup ## The quick unit tests with the oldest dependencies that pyproject.toml allows
	@mkdir -p reports
	@$(UV) pip compile --quiet pyproject.toml --all-extras --resolution lowest-direct --no-header -o reports/lowest.txt
	@$(UV) venv --quiet --clear --python $(BIN)/python $(LOWEST)
	@$(UV) pip install --quiet --python $(LOWEST)/bin/python --editable . --requirements reports/lowest.txt --group dev
	$(LOWEST)/bin/python -m pytest -q $(SIDE_BY_SIDE) -p no:cacheprovider -m "not slow" tests/unit

test-containers: setup ## The image and the compose file, on a Docker engine of their own (Debian, root)
	$(BIN)/python -m pytest -m containers tests/containers

test-python: setup ## Unit tests and delivery on the image's Python, 3.13: Debian's trixie in a folder (Debian, root); ARGS
	$(BIN)/python -m tests.pythons trixie $(ARGS)

report-python: setup ## The quick unit tests on the newest Python, of Debian's sid: prints what fails, and fails for nothing
	$(BIN)/python -m tests.pythons sid --report

faults: setup ## The fault matrix on three brokers: an hour; ARGS=--hard for the hardest, --order, --mix N
	$(BIN)/python -m tests.faults.matrix $(ARGS)

HOURS := 1
soak: setup ## Faults at random against one set of workers for HOURS=1; ARGS=--seed N for the same ones: reports/soak-N.svg
	$(BIN)/python -m tests.faults.soak --hours $(HOURS) $(ARGS)

compat: setup ## The same tests on six releases of Apache Kafka, and requests of other clients: an hour; RELEASES=3.9.1
	$(BIN)/python -m tests.compat $(RELEASES)

image: ## The image, with version and revision on it
	docker build --tag millrace --build-arg VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
		--build-arg REVISION=$$(git rev-parse HEAD) --build-arg CREATED=$$(date -u +%Y-%m-%dT%H:%M:%SZ) .

coverage: setup ## All tests with branch coverage, workers in processes of their own included
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest $(SIDE_BY_SIDE) --junitxml=reports/junit.xml
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage xml --quiet -o reports/coverage.xml
	$(BIN)/python -m coverage report --fail-under=$(COVERAGE)

# Where the code stands: 96 at the last measurement.
COVERAGE := 95

docs: setup ## The documentation as a site with a search, in reports/site; fails for a dead link
	@UV_PROJECT_ENVIRONMENT=$(VENV)-docs $(UV) sync --frozen --quiet --only-group docs
	@$(VENV)-docs/bin/python -m tests.site

licences: setup ## Under which licences the packages are that come along; fails for one not agreed to
	@$(BIN)/python -m tests.licences

sbom: setup ## What uv.lock pins, as CycloneDX: reports/sbom.cdx.json; the image has its own in /app/share/millrace
	@mkdir -p reports
	@$(UV) export --frozen --quiet --no-dev --all-extras --format cyclonedx1.5 --preview-features sbom-export -o reports/sbom.cdx.json
	@echo reports/sbom.cdx.json

# ADVISORIES=PATH: an export of OSV, for where the service cannot be reached (tests/advisories.py has its forms).
audit: setup ## Known vulnerabilities of what uv.lock pins, by a service, or where that is away by ADVISORIES=PATH
	@mkdir -p reports
	@$(UV) export --frozen --quiet --no-dev --all-extras --no-emit-project --format requirements-txt -o reports/pinned.txt
	@$(BIN)/python -m tests.audit reports/pinned.txt $(if $(ADVISORIES),--advisories $(ADVISORIES))

lint: setup ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## Format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

bench: setup ## CPU a request and requests a second, against stock Faust and hand-written aiokafka
	$(BIN)/python -m bench
	$(BIN)/python -m bench.isolation
	$(BIN)/python -m bench.checks
	$(BIN)/python -m bench.tables
	$(BIN)/python -m bench.live
	$(BIN)/python -m bench.routes
	$(BIN)/python -m bench.latency
	$(BIN)/python -m bench.growth

bench-peers: setup ## The same work by hand, by Faust, FastStream, Quix Streams and a worker in Go, side by side
	$(BIN)/python -m bench.peers

clean: ## Remove what was made here
	rm -rf $(VENV) $(VENV)-docs $(LOWEST) .tools .coverage* .hypothesis .pytest_cache .mypy_cache .ruff_cache dist reports
