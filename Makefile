# Everything a newcomer needs: make run, make test. `make help` lists the rest.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
export SECRET_KEY ?= $(shell cat .secret_key 2>/dev/null)
YAML_RULES := {extends: default, rules: {document-start: disable, truthy: {check-keys: false}, comments: {min-spaces-from-content: 1}, line-length: {max: 150}}}
LOCAL := DEBUG=false SECURE_SSL=false LICENSE_AUTH=$${LICENSE_AUTH:-open} LICENSE_DB_SEED=$${LICENSE_DB_SEED:-true} LOG_FORMAT=$${LOG_FORMAT:-text}

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/runtime: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

$(VENV)/development: tests/requirements.txt $(VENV)/runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/requirements.txt
	@touch $@

# For the chart: Helm, and a policy checker with an environment of its own.
$(BIN)/helm: scripts/fetch_helm.py | $(VENV)/runtime
	$(BIN)/python scripts/fetch_helm.py $@

$(VENV)/checkov/bin/checkov: deploy/requirements.txt
	$(PYTHON) -m venv --clear $(VENV)/checkov
	$(VENV)/checkov/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r deploy/requirements.txt
	@touch $@

# Kept, so that sessions survive a restart; never committed.
.secret_key:
	@umask 077 && $(PYTHON) -c "import secrets; print(secrets.token_urlsafe(48))" > $@

# A sub-make, because the key is read when make starts.
.PHONY: run serve
run: $(VENV)/runtime .secret_key ## serve on :8000 with an SQLite database and the default tools
	@$(MAKE) --no-print-directory serve

serve:
	@$(LOCAL) $(BIN)/python manage.py migrate --noinput --verbosity 0
	@$(LOCAL) $(BIN)/python manage.py collectstatic --noinput --verbosity 0
	@$(LOCAL) exec $(BIN)/python -m licenseserver

.PHONY: admin
admin: $(VENV)/runtime .secret_key ## create an administrator (asks for a password)
	@SECRET_KEY=$$(cat .secret_key) $(BIN)/python manage.py migrate --noinput --verbosity 0
	@SECRET_KEY=$$(cat .secret_key) $(BIN)/python manage.py createsuperuser --username admin --email ""

.PHONY: test test-sqlite test-postgres
test: test-sqlite test-postgres ## the whole suite, on SQLite and on PostgreSQL

test-sqlite: $(VENV)/development $(BIN)/helm ## the suite on SQLite
	TEST_DATABASE=sqlite $(BIN)/python -m pytest

test-postgres: $(VENV)/development $(BIN)/helm ## the suite on PostgreSQL: DATABASE_URL's, or one that it starts itself
	TEST_DATABASE=postgres $(BIN)/python -m pytest

.PHONY: lint
lint: $(VENV)/development $(BIN)/helm $(VENV)/checkov/bin/checkov ## style, types, architecture, deployment checks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=client/src $(BIN)/lint-imports
	SECRET_KEY=$$($(PYTHON) -c "import secrets; print(secrets.token_urlsafe(48))") sh -ec ' \
	  $(BIN)/mypy; \
	  $(BIN)/python manage.py check --deploy --fail-level WARNING; \
	  $(BIN)/python manage.py makemigrations --check --dry-run; \
	  $(BIN)/python manage.py spectacular --validate --fail-on-warn --file /dev/null'
	$(BIN)/hadolint Dockerfile
	$(BIN)/zizmor --offline --quiet .github
	$(BIN)/actionlint
	$(BIN)/yamllint --strict --config-data "$(YAML_RULES)" .github docker-compose.yml monitoring \
	  deploy/checkov.yaml deploy/chart/Chart.yaml deploy/chart/values.yaml deploy/chart/ci
	scripts/check_chart

.PHONY: bench
bench: $(VENV)/development ## measure the server on PostgreSQL (wrk and pgbench are used where present)
	$(BIN)/python -m benchmarks

.PHONY: lock
lock: $(VENV)/development ## pin the dependencies anew, with hashes
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	  --custom-compile-command "make lock" pyproject.toml --output-file requirements.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	  --custom-compile-command "make lock" --group tracing --constraint requirements.txt \
	  --output-file requirements-tracing.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	  --custom-compile-command "make lock" pyproject.toml --group dev --constraint requirements.txt \
	  --constraint requirements-tracing.txt \
	  --output-file tests/requirements.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	  --custom-compile-command "make lock" --group policy --output-file deploy/requirements.txt
