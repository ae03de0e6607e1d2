# Every verb of the project; `make help` lists them.
#
#   PRESET=smoke|laptop|desktop|paper   how much the notebooks compute        JOBS=2         notebooks at a time
#   SEEDS=8                     runs for each optimizer               DOWNLOAD=1     allow data sets to be downloaded
#   DATA_DIR=...                where data sets lie                   ONLY=name      one notebook alone
#   WHAT=networks               what `run` computes                   MINUTES=9      how long it may take
#   RESULTS_DIR=...             where records are kept and looked for    TAG=v0.1.0     what is released
#   SITE=https://host/folder    where `html` will be read: canonical links and the picture that other sites show
#   SWEEP="noisy_bowl drift 0 1 2"  with `batch`: a notebook, one of its parameters, values; SET="steps=500" the rest

PRESET ?= smoke
JOBS ?= 2
PYTHON ?= python3
PORT ?= 8000
WHAT ?= small
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RESULTS := $(if $(RESULTS_DIR),--results-dir "$(RESULTS_DIR)")
EXECUTE := $(BIN)/python -m lodo_experiments.cli.execute --preset $(PRESET) --jobs $(JOBS) \
	$(if $(SEEDS),--seeds $(SEEDS)) $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") \
	$(if $(filter-out 0,$(DOWNLOAD)),--download) $(if $(ONLY),--only $(ONLY)) $(RESULTS)
UV := VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/uv
LOCK := $(UV) pip compile pyproject.toml --generate-hashes --no-header --no-annotate \
	--universal --python-version 3.11 --quiet

# The scripts in .venv name the folder that they were installed into: in a clone that was moved or copied they do not run.
SHEBANG := for script in pip jupyter-book pytest; do head -n 2 "$(BIN)/$$script"; done 2>/dev/null | grep -e '/$(BIN)/'
MOVED := $(shell test -L $(VENV) && exit; made=$$(cat $(STAMP) 2>/dev/null); { test -n "$$made" && test "$$made" != "$(CURDIR)"; } \
	|| { $(SHEBANG) | grep -qvF "$(CURDIR)/$(BIN)/"; } && echo yes)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install install-gpu gpu bench book run batch ledger replay status execute html serve \
	test lint lint-workflows typecheck doctest test-exhaustive test-faults test-slurm \
	test-oldest test-colab test-newest test-system graph dist release-notes packages format lock address clean distclean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z -]+:.*## / {printf "  make %-38s %s\n", $$1, $$2}' Makefile
	@printf '\n  Variables: PRESET=smoke|laptop|desktop|paper JOBS=2 SEEDS= DATA_DIR= DOWNLOAD=1 ONLY=notebook RESULTS_DIR= PORT=8000 SITE=\n'

install: $(STAMP) ## build .venv from the hash-checked lock

# uv itself comes from the lock too: its lines are cut out of it, for pip to check.
$(STAMP): requirements.lock pyproject.toml $(if $(MOVED),moved)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11; name a newer one: make install PYTHON=python3.11"; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@awk '/^uv==/ {inside = 1} /^[^ ]/ && !/^uv==/ {inside = 0} inside' requirements.lock > $(VENV)/uv.lock.txt
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $(VENV)/uv.lock.txt
	$(UV) pip install --quiet --require-hashes -r requirements.lock
	$(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@printf '%s\n' "$(CURDIR)" > $@

.PHONY: moved
moved:
	@echo "$(VENV) was made in another folder than $(CURDIR): installing it anew"
	rm -rf $(VENV)

install-gpu: $(STAMP) ## add JAX's plugin for NVIDIA's GPUs to .venv, from its hash-checked lock
	$(UV) pip install --quiet --require-hashes -r requirements-cuda.lock
	$(BIN)/python -m lodo_experiments.cli.device --require gpu

gpu: $(STAMP) ## fail unless JAX computes on a GPU here
	$(BIN)/python -m lodo_experiments.cli.device --require gpu

book: execute html ## install, execute the notebooks, build _build/html/index.html

# Refused before hours of notebooks, not after, also with make -j.
.PHONY: site-address
site-address: $(STAMP)
	@$(if $(SITE),LODO_SITE="$(SITE)" $(BIN)/python book/_ext/social.py,:)

run: $(STAMP) ## run a study or a plan (WHAT=small, networks, noisy_bowl, …) without notebooks, for MINUTES at most
	$(BIN)/python -m lodo_experiments.cli.run $(WHAT) --preset $(PRESET) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(SEEDS),--seeds $(SEEDS)) $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(RESULTS)

# It measures compilation too.
bench: export LODO_COMPILATION_CACHE :=
bench: $(STAMP) ## measure the speed and memory of LODO's step beside others', store records, print the table
	$(BIN)/python -m benchmarks.speed $(RESULTS)

batch: $(STAMP) ## everything at PRESET, as jobs: what is there is kept, what fails is told (JOBS=, ONLY=, MINUTES=, DRY_RUN=1)
	$(BIN)/python -m lodo_experiments.cli.batch --preset $(PRESET) --cores $(JOBS) $(if $(MINUTES),--minutes $(MINUTES)) \
		$(if $(SEEDS),--seeds $(SEEDS)) $(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(if $(ONLY),--only $(ONLY)) \
		$(if $(filter-out 0,$(DOWNLOAD)),--download) $(if $(PROFILE),--profile "$(PROFILE)") \
		$(if $(SWEEP),--sweep $(SWEEP)) $(if $(SET),--set $(SET)) \
		$(if $(filter-out 0,$(DRY_RUN)),--dry-run) $(RESULTS)

ledger: $(STAMP) ## compute the verdicts on the paper's claims from the records, and store them
	$(BIN)/python -m lodo_experiments.analysis.claims --write $(RESULTS)

replay: $(STAMP) ## compute the beginning of each stored record with today's code, compare, store what is found (PRESET=)
	$(BIN)/python -m lodo_experiments.cli.replay $(if $(filter command% environment%,$(origin PRESET)),--preset $(PRESET)) \
		$(if $(DATA_DIR),--data-dir "$(DATA_DIR)") $(RESULTS)

status: $(STAMP) ## list which results are there, which still replay, which are missing, and what making them costs
	@$(BIN)/python -m lodo_experiments.cli.status $(if $(filter command% environment%,$(origin PRESET)),--preset $(PRESET)) $(RESULTS)

execute: $(STAMP) | $(if $(filter book,$(MAKECMDGOALS)),site-address) ## execute the notebooks that changed since they were executed
	$(EXECUTE)

# Sphinx reads what was executed; `book` runs this after `execute`, also with make -j.
html: $(STAMP) | $(if $(filter book,$(MAKECMDGOALS)),execute) ## build the site from notebooks executed before
	LODO_PRESET=$(PRESET) $(if $(RESULTS_DIR),LODO_RESULTS="$(RESULTS_DIR)") $(if $(SITE),LODO_SITE="$(SITE)") \
		$(BIN)/jupyter-book build . --warningiserror --keep-going --nitpick --quiet
	@echo "The book: $(CURDIR)/_build/html/index.html"

serve: ## show the built site on 127.0.0.1, port PORT
	$(BIN)/python -m http.server $(PORT) --bind 127.0.0.1 --directory _build/html

# A file's tests stay in one process, and so do those of the pages, which share what is executed and built.
test: lint typecheck doctest execute ## ruff, mypy, doctest, and the tests; `test-exhaustive` has more cases of them
	$(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --ignore=tests/slurm

test-exhaustive: execute ## every test, also those that `make test` leaves out
	$(BIN)/pytest -m "" -n $(JOBS) --dist loadfile --no-loadscope-reorder --ignore=tests/slurm

test-faults: $(STAMP) ## kill, damage, fill and doubly start runs at seeded moments: how many faults, how many survived
	$(BIN)/pytest tests/faults -m "" -n $(JOBS) --at-least 100

test-slurm: $(STAMP) ## the batch on a real SLURM, started and stopped by the tests (BATCH=small: a part of smoke, else all)
	LODO_SLURM_REQUIRED=1 LODO_SLURM_WHOLE=$(if $(filter small,$(BATCH)),,1) $(BIN)/pytest tests/slurm

packages: ## install by apt-get, where they are missing: a browser, and SLURM with munge, for the tests
	tools/packages.sh browser slurm

doctest: export LODO_COMPILATION_CACHE ?= $(CURDIR)/_build/compiled
# Programs that run once: what the compiler saves on them is more than they lose.
doctest: export JAX_DISABLE_MOST_OPTIMIZATIONS ?= 1
doctest: $(STAMP) ## run the examples in docstrings
	$(BIN)/pytest -n $(JOBS) --dist loadfile --doctest-modules lodo lodo_experiments

lint-workflows: $(STAMP) ## zizmor on .github/workflows, and actionlint where it is on the path
	$(BIN)/zizmor --offline --no-progress --pedantic .github/workflows
	@if command -v actionlint >/dev/null; then actionlint -color=false; else echo "actionlint is not on the path: not run"; fi

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

typecheck: $(STAMP) ## mypy
	$(BIN)/mypy

graph: $(STAMP) ## print the rooms of the two packages, their levels of import and their lines; fail on what no room may do
	$(BIN)/python tools/import_graph.py

test-oldest test-colab test-newest: test-%: $(STAMP) ## the library's tests with other versions of Python, jax and optax
	$(BIN)/python tools/test_versions.py $*

# Not by .venv, whose lock is not all to be had on every system, and whose programs lie elsewhere on Windows.
test-system: ## the library's tests with the newest versions by PYTHON, on Linux, macOS or Windows
	"$(PYTHON)" tools/test_versions.py system

dist: $(STAMP) ## build the source distribution and the wheel into _build/dist
	$(UV) build --quiet --offline --no-build-isolation --clear --no-create-gitignore --out-dir _build/dist .

release-notes: $(STAMP) ## check that TAG is this version, and write its section of the changelog to _build/release.md
	$(BIN)/python tools/release_notes.py "$(TAG)"

lock: $(STAMP) ## resolve requirements.lock and requirements-cuda.lock anew from pyproject.toml
	$(LOCK) --extra all -o requirements.lock
	$(BIN)/python tools/constraints.py
	$(LOCK) --extra cuda --constraints constraints.txt -o requirements-cuda.lock

address: $(STAMP) ## set the repository's public address everywhere: make address URL=https://host/owner/name REVISION=v0.1.0
	$(BIN)/python tools/address.py "$(URL)" $(if $(REVISION),--revision "$(REVISION)")

clean: ## remove all that was built and cached: the site, executed notebooks, compiled programs (not results, not .venv)
	rm -rf _build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find lodo lodo_experiments tests tools book -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove .venv too
	rm -rf $(VENV) .venv-* *.egg-info
