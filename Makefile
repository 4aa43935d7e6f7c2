# Every target sets up what it needs. Python 3.11 or later and make are all that must be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PGLITE := $(VENV)/pglite
# pip compiles one file after another; the recipes do it on all processors, once the packages are there.
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
# uv takes a tenth of the processor time, but knows nothing of how pip is configured: where it cannot, pip installs.
SYNC = { $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r $(1) 2> /dev/null || $(INSTALL) --require-hashes -r $(1); }
COMPILE := $(BIN)/python -m compileall -q -j 0 $(VENV)/lib > /dev/null || true
# Where bytecode is not kept, every process of the tests compiles them anew.
unexport PYTHONDONTWRITEBYTECODE
# What `make vendor` fetches.
SWAGGER_UI := 5.35.0
REDOC := 2.5.4

# What `make up` runs is found by the file with its process, in the directory of its data.
RUN_HOME := $(or $(TIERCEL_HOME),.tiercel)
RUN_PID := $(RUN_HOME)/up.pid
up logs: export TIERCEL_LOG__FILE ?= $(RUN_HOME)/log/tiercel.log
# Of step6: what pytest is given, and where it is kept.
TESTS ?= tests
REPORT ?= reports/step6_tests.log

.PHONY: up down logs migrate step6 test quick soak engines lint style coverage fmt docs pictures bench lock vendor dist clean

## up: set up, start with demo data on http://127.0.0.1:8000/
up: $(VENV)/.run
	@mkdir -p -m 700 $(RUN_HOME) && echo $$$$ > $(RUN_PID) && exec $(BIN)/tiercel up

## down: stop what `make up` started, from another terminal
down:
	@pid=$$(cat $(RUN_PID) 2> /dev/null) && tr '\0' ' ' < /proc/$$pid/cmdline 2> /dev/null | grep -q 'tiercel up' || \
		{ echo "Nothing that make up started is running."; exit 0; }; \
	kill -TERM $$pid; \
	for wait in $$(seq 300); do kill -0 $$pid 2> /dev/null || { rm -f $(RUN_PID); exit 0; }; sleep 0.2; done; \
	echo "Process $$pid has not ended within a minute." >&2; exit 1

## logs: show the log of what `make up` started, and follow it
logs: $(VENV)/.run
	@exec $(BIN)/tiercel logs -f

## migrate: apply pending migrations to the database
migrate: $(VENV)/.run
	$(BIN)/tiercel migrate

## step6: show and apply pending migrations, run the tests, and keep what they print in reports/step6_tests.log
step6: SHELL := bash
step6: .SHELLFLAGS := -o pipefail -c
step6: $(VENV)/.dev $(VENV)/.pglite
	@mkdir -p $(dir $(REPORT))
	@export TIERCEL_TEST_PGLITE=$$(test -d $(PGLITE)/node_modules && echo $(CURDIR)/$(PGLITE)); \
	{ $(BIN)/tiercel migrate --plan && $(BIN)/tiercel migrate && $(BIN)/pytest -n 4 --dist loadgroup $(TESTS); } 2>&1 | tee $(REPORT)

## test: lint, format, types, import rules and every test
# Types are checked beside the tests, which leave some time of each core; what was found is shown after them.
test: style $(VENV)/.pglite
	$(BIN)/mypy > $(VENV)/types.log 2>&1 & checked=$$!; \
	export TIERCEL_TEST_PGLITE=$$(test -d $(PGLITE)/node_modules && echo $(CURDIR)/$(PGLITE)); \
	$(BIN)/pytest -n 4 --dist loadgroup; tested=$$?; \
	wait $$checked; types=$$?; cat $(VENV)/types.log; \
	exit $$((tested || types))

## quick: lint, format, types, import rules and the tests that start no process, on the embedded PostgreSQL only
quick: lint
	$(BIN)/pytest -q -n 4 --quick

## soak: send 100,000 random requests to a service, and a million of accounts; SOAK=1000000 for more of the first, SEED=7 for others
# They take longer than a test of the suite may.
soak: $(VENV)/.dev
	TIERCEL_TEST_FUZZ_REQUESTS=$(or $(SOAK),100000) TIERCEL_TEST_FUZZ_SEED=$(or $(SEED),1) $(BIN)/pytest -q -s -o faulthandler_timeout=0 tests/hostile/test_fuzz.py
	TIERCEL_TEST_ISOLATION_REQUESTS=$(or $(ISOLATION),1000000) TIERCEL_TEST_ISOLATION_SEED=$(or $(SEED),1) $(BIN)/pytest -q -n 2 -o faulthandler_timeout=0 tests/hostile/test_isolation.py

## engines: every test of request logs on every engine; `make test` runs each on the embedded one, and one or a third of its cases on another
engines: $(VENV)/.pglite
	TIERCEL_TEST_ENGINES=all TIERCEL_TEST_PGLITE=$(CURDIR)/$(PGLITE) $(BIN)/pytest -q -n 4 --dist loadgroup tests/plugins/observability

## coverage: which lines the tests of `make quick` run, in one process
coverage: $(VENV)/.dev
	$(BIN)/coverage run -m pytest -q --quick
	$(BIN)/coverage report

lint: style
	$(BIN)/mypy

style: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

## fmt: format and mend what can be mended
fmt: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

## docs: write docs/reference and contrib/postman anew from the code
docs: $(VENV)/.dev
	$(BIN)/python -m docs.generate

## pictures: make those of the README anew, with the Chromium of this machine
pictures: $(VENV)/.dev
	$(BIN)/python -m tests.browser.pictures

## bench: measure, as ratios within one run; BENCH='--full NAME ...' for more events or some benches only
bench: $(VENV)/.bench
	$(BIN)/python -m tests.bench $(BENCH)

## lock: write the lock files anew; that of the service has the versions that tests run with
lock: $(VENV)/.dev
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --upgrade --generate-hashes --no-emit-index-url --custom-compile-command "make lock" -o tests/requirements.lock
	$(BIN)/uv pip compile pyproject.toml --constraint tests/requirements.lock --universal --upgrade --generate-hashes --no-emit-index-url --custom-compile-command "make lock" -o requirements.lock

## vendor: fetch the programs of other projects that pages use; fails if they are not those whose hashes are recorded
vendor: STATIC := plugins/system/static
vendor:
	rm -rf .vendor && mkdir .vendor
	cd .vendor && npm pack --silent swagger-ui-dist@$(SWAGGER_UI) redoc@$(REDOC)
	mkdir .vendor/swagger-ui .vendor/redoc
	tar -xzf .vendor/swagger-ui-dist-$(SWAGGER_UI).tgz -C .vendor/swagger-ui --strip-components=1
	tar -xzf .vendor/redoc-$(REDOC).tgz -C .vendor/redoc --strip-components=1
	cp .vendor/swagger-ui/swagger-ui-bundle.js .vendor/swagger-ui/swagger-ui-bundle.js.LICENSE.txt .vendor/swagger-ui/swagger-ui.css .vendor/
	cp .vendor/swagger-ui/LICENSE .vendor/swagger-ui.LICENSE.txt && cp .vendor/swagger-ui/NOTICE .vendor/swagger-ui.NOTICE.txt
	cp .vendor/redoc/bundles/redoc.standalone.js.LICENSE.txt .vendor/ && cp .vendor/redoc/LICENSE .vendor/redoc.LICENSE.txt
	# Redoc loads its logo from another host, and shows none if that fails; its first styles lack the nonce of the page.
	sed -e 's#"https://cdn.redoc.ly/redoc/logo-mini.svg"#"data:,"#' -e 's/\.nc=void 0;/.nc=document.currentScript.nonce;/' \
		.vendor/redoc/bundles/redoc.standalone.js > .vendor/redoc.standalone.js
	cd .vendor && sha256sum --check --quiet $(CURDIR)/$(STATIC)/vendored.sha256
	cp .vendor/*.txt $(STATIC)/
	for file in swagger-ui-bundle.js swagger-ui.css redoc.standalone.js; do gzip -9nc .vendor/$$file > $(STATIC)/$$file.gz; done
	rm -rf .vendor

## dist: build wheel and source distribution into dist/: the same bytes from the same sources
dist: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m hatchling build --directory dist --target sdist --target wheel

# What is measured against, at any version, and the load generator.
$(VENV)/.bench: pyproject.toml $(VENV)/.dev
	$(INSTALL) -e '.[bench]'
	if ! command -v wrk > /dev/null && test "$$(id -u)" = 0; then \
		apt-get update -qq && apt-get install -qq -y wrk > /dev/null; \
	fi
	touch $@

# A real TimescaleDB and newman for the tests, where npm is there; without it those tests are skipped, and CI fails.
$(VENV)/.pglite: tests/package.json | $(BIN)/python
	mkdir -p $(PGLITE) && cp tests/package.json $(PGLITE)/
	if command -v npm > /dev/null; then \
		npm install --prefix $(PGLITE) --silent --no-audit --no-fund --no-package-lock; \
	fi
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(BIN)/uv: | $(BIN)/python
	sed -n '/^uv==/,/^    # via/p' tests/requirements.lock > $(VENV)/uv.lock
	$(INSTALL) --require-hashes -r $(VENV)/uv.lock || true

$(VENV)/.run: requirements.lock pyproject.toml | $(BIN)/uv
	$(call SYNC,requirements.lock)
	$(INSTALL) --no-deps -e .
	$(COMPILE)
	touch $@

$(VENV)/.dev: tests/requirements.lock $(VENV)/.run
	$(call SYNC,tests/requirements.lock)
	$(COMPILE)
	touch $@
