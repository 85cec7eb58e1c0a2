# Everything a newcomer needs: make run, make test. `make help` lists the rest by purpose.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
export SECRET_KEY ?= $(shell cat .secret_key 2>/dev/null)
YAML_RULES := {extends: default, rules: {document-start: disable, truthy: {check-keys: false}, comments: {min-spaces-from-content: 1}, line-length: {max: 150}}}
LOCAL := DEBUG=false SECURE_SSL=false BIND=$${BIND:-127.0.0.1:8000} LICENSE_AUTH=$${LICENSE_AUTH:-open} LICENSE_DB_SEED=$${LICENSE_DB_SEED:-true} LOG_FORMAT=$${LOG_FORMAT:-text}

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/runtime: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

$(VENV)/development: requirements/tests.txt $(VENV)/runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/tests.txt
	@touch $@

# For the chart: Helm, and a policy checker in its own environment.
$(BIN)/helm: scripts/fetch_helm.py | $(VENV)/runtime
	$(BIN)/python scripts/fetch_helm.py $@

$(VENV)/checkov/bin/checkov: requirements/policy.txt
	$(PYTHON) -m venv --clear $(VENV)/checkov
	$(VENV)/checkov/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/policy.txt
	@touch $@

# The tools that make and check a release; they are not part of it.
$(VENV)/release/bin/pip-audit: requirements/release.txt
	$(PYTHON) -m venv --clear $(VENV)/release
	$(VENV)/release/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/release.txt
	@touch $@

# The site's generator, also in its own environment.
$(VENV)/docs/bin/sphinx-build: requirements/docs.txt
	$(PYTHON) -m venv --clear $(VENV)/docs
	$(VENV)/docs/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/docs.txt
	@touch $@

# Kept, so that sessions survive a restart; never committed.
.secret_key:
	@umask 077 && $(PYTHON) -c "import secrets; print(secrets.token_urlsafe(48))" > $@

##@ Run

# A sub-make, because the key is read when make starts.
.PHONY: run serve
run: $(VENV)/runtime .secret_key ## serve on 127.0.0.1:8000 with an SQLite database and the default tools
	@$(MAKE) --no-print-directory serve

serve:
	@$(LOCAL) $(BIN)/python manage.py migrate --noinput --verbosity 0
	@$(LOCAL) $(BIN)/python manage.py collectstatic --noinput --verbosity 0
	@$(LOCAL) exec $(BIN)/python -m licenseserver

.PHONY: admin
admin: $(VENV)/runtime .secret_key ## create an administrator (asks for a password)
	@SECRET_KEY=$$(cat .secret_key) $(BIN)/python manage.py migrate --noinput --verbosity 0
	@SECRET_KEY=$$(cat .secret_key) $(BIN)/python manage.py createsuperuser --username admin --email ""

##@ Test

# A process takes file after file, in the order of tests/conftest.py.
PARALLEL := --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: check check-code check-units
check: $(VENV)/development ## check style and types, and run the unit tests: before each commit
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target check-code check-units

check-code:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	SECRET_KEY=$$($(PYTHON) -c "import secrets; print(secrets.token_urlsafe(48))") $(BIN)/mypy

check-units:
	TEST_DATABASE=sqlite $(BIN)/python -m pytest -q $(PARALLEL) tests/unit

.PHONY: test test-sqlite test-postgres
test: test-sqlite test-postgres ## run the whole suite on SQLite, and on PostgreSQL what a database can make a difference to

test-sqlite: $(VENV)/development $(BIN)/helm ## run the suite on SQLite
	TEST_DATABASE=sqlite $(BIN)/python -m pytest $(PARALLEL)

test-postgres: $(VENV)/development ## run it on PostgreSQL: the one in DATABASE_URL, or one that it starts itself
	TEST_DATABASE=postgres $(BIN)/python -m pytest $(PARALLEL) -m "not any_database" \
	  --ignore=tests/client --ignore=tests/deploy --ignore=tests/faults

.PHONY: test-client
test-client: $(VENV)/development ## run the client's tests, with CLIENT_PYTHON as its Python (3.9 or later)
	$${CLIENT_PYTHON:-$(PYTHON)} -m venv --clear $(VENV)/client
	$(VENV)/client/bin/python -m pip install --quiet --disable-pip-version-check ./client
	CLIENT_PYTHON=$(CURDIR)/$(VENV)/client/bin/python TEST_DATABASE=sqlite $(BIN)/python -m pytest tests/client

.PHONY: faults faults-long mutants
FAULTS := $(BIN)/python -m tests.faults
faults: $(VENV)/development ## test a server under faults, on PostgreSQL and SQLite; SEED=n repeats a schedule
	$(FAULTS) $(if $(SEED),--seed $(SEED))
	$(FAULTS) $(if $(SEED),--seed $(SEED)) --database sqlite --faults 20 --operations 3000
	$(FAULTS).overload

faults-long: $(VENV)/development ## test it in many runs, JOBS at the same time: at least 500,000 operations and 1,500 faults; SEEDS="1 2 3"
	$(FAULTS) --jobs $(or $(JOBS),3) --faults 96 --operations 32000 --seeds $(or $(SEEDS),$(shell seq 16))

mutants: $(VENV)/development ## check that these tests find the defect in servers that are wrong on purpose
	$(FAULTS).mutants --jobs $(or $(JOBS),2)

.PHONY: bench bench-growth
bench: $(VENV)/development ## measure whether the server reaches its goals: 20 minutes (uses wrk and pgbench if they are installed)
	$(BIN)/python -m benchmarks

bench-growth: $(VENV)/development ## measure the cost of more connections, tools, leases, teams and waiting requests: 15 minutes
	$(BIN)/python -m benchmarks.growth

##@ Check

.PHONY: lint
lint: $(VENV)/development $(BIN)/helm $(VENV)/checkov/bin/checkov docs ## check style, types, architecture and deployment files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=client/src $(BIN)/lint-imports
	SECRET_KEY=$$($(PYTHON) -c "import secrets; print(secrets.token_urlsafe(48))") sh -ec ' \
	  $(BIN)/mypy; \
	  $(BIN)/mypy --platform win32 client/src; \
	  $(BIN)/python manage.py check --deploy --fail-level WARNING; \
	  $(BIN)/python manage.py makemigrations --check --dry-run; \
	  $(BIN)/python manage.py spectacular --validate --fail-on-warn --file /dev/null'
	$(BIN)/python -m pytest -q tests/api/test_schema.py
	$(BIN)/hadolint Dockerfile client/Dockerfile
	$(BIN)/zizmor --offline --quiet --persona pedantic .github
	$(BIN)/actionlint -shellcheck $(BIN)/shellcheck
	$(BIN)/shellcheck $$(grep -lE '^#!.*\<bash' .ci/* scripts/*) deploy/compose/reload
	$(BIN)/yamllint --strict --config-data "$(YAML_RULES)" .github .pre-commit-config.yaml docker-compose.yml monitoring \
	  deploy/checkov.yaml deploy/gitlab deploy/kind deploy/chart/Chart.yaml deploy/chart/values.yaml deploy/chart/ci
	$(BIN)/codespell $$(git ls-files)
	$(BIN)/proselint check --config docs/proselint.json $$(git ls-files '*.md' ':!docs/third-party-licenses.md')
	$(BIN)/python scripts/check_words.py
	scripts/check_chart
	$(BIN)/python scripts/third_party_licenses.py --check
	$(BIN)/python scripts/release.py check

# Reads the files with the hashes; resolves and installs nothing. A package can be in
# two files, so it checks one file at a time. A package that PyPI does not know is a
# failure: otherwise an index without answers would look healthy.
.PHONY: audit
audit: $(VENV)/release/bin/pip-audit ## check the pinned packages for known vulnerabilities (asks PyPI)
	for file in requirements.txt requirements/*.txt; do \
	  $(VENV)/release/bin/pip-audit --strict --require-hashes --disable-pip --progress-spinner off --requirement $$file || exit 1; \
	done

##@ Documentation

.PHONY: docs
docs: $(VENV)/docs/bin/sphinx-build ## build the documentation as a site: dist/docs/index.html
	$(VENV)/docs/bin/sphinx-build --quiet --fail-on-warning --keep-going -d dist/.doctrees docs dist/docs

.PHONY: screenshots
screenshots: $(VENV)/development ## take the documentation's pictures again, from a running server (needs Chromium)
	$(BIN)/python scripts/screenshots.py

.PHONY: error-tables
error-tables: $(VENV)/development ## write the refusals into docs/reference/errors.md again
	$(BIN)/python scripts/error_tables.py

##@ Release

# Of an environment like the image's: without pip, and without what tests need.
.PHONY: sbom
sbom: $(VENV)/release/bin/pip-audit ## list the server's packages: dist/sbom.cdx.json (CycloneDX)
	$(PYTHON) -m venv --clear --without-pip $(VENV)/image
	$(PYTHON) -m pip --python $(VENV)/image/bin/python install --quiet --disable-pip-version-check \
	  --require-hashes --only-binary :all: --requirement requirements.txt --requirement requirements/tracing.txt
	mkdir -p dist
	$(VENV)/release/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
	  --output-file dist/sbom.cdx.json $(VENV)/image/bin/python

.PHONY: client
client: $(VENV)/release/bin/pip-audit ## build the client's wheel and its single file: dist/
	rm -rf client/build
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(VENV)/release/bin/python scripts/pack_client.py dist/license.pyz
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(VENV)/release/bin/python -m pip wheel --quiet --disable-pip-version-check \
	  --no-deps --no-index --no-build-isolation --wheel-dir dist ./client

##@ Dependencies

.PHONY: third-party
third-party: $(VENV)/development ## list the dependencies' licenses again
	$(BIN)/python scripts/third_party_licenses.py

.PHONY: lock
lock: $(VENV)/development ## pin the dependencies again, with hashes
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	  --custom-compile-command "make lock" pyproject.toml --output-file requirements.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	  --custom-compile-command "make lock" --group tracing --constraint requirements.txt \
	  --output-file requirements/tracing.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	  --custom-compile-command "make lock" pyproject.toml --group dev --constraint requirements.txt \
	  --constraint requirements/tracing.txt \
	  --output-file requirements/tests.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	  --custom-compile-command "make lock" --group policy --output-file requirements/policy.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	  --custom-compile-command "make lock" --group release --output-file requirements/release.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	  --custom-compile-command "make lock" --group docs --output-file requirements/docs.txt
