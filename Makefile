# What people and CI call. Each verb but `fix`, `lock` and `help` sets up first what it needs.
.DEFAULT_GOAL := help
BIN := .venv/bin
CODE := src tests bench scripts
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-header --no-annotate

.PHONY: help install up down test check faults faults-release fix bench docs site lock image

help: ## list the verbs
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

install: ## install what is missing: system packages and .venv (quick when all is there)
	@scripts/install

up: install ## start the whole line on this machine, with the sample Deployment on it
	@scripts/up

down: ## stop it and leave nothing running; the state stays, `kci down --purge` removes it
	@$(BIN)/kci down

test: check ## everything CI runs: checks, then all tests
	$(BIN)/python -m kci.stack.goprograms
	$(BIN)/python scripts/helm.py
	PYTHONPATH=scripts:tests/harness $(BIN)/python tests/harness/everything.py

check: install ## format, lint, types, architecture
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_rules.py
	$(BIN)/python scripts/reference.py --check
	$(BIN)/python scripts/guide_coverage.py --check
	$(BIN)/python scripts/dashboard.py --check

faults: install ## the long tests of reliability and the seeded bugs; writes docs/reliability.md (under an hour)
	$(BIN)/python -m kci.stack.goprograms
	PYTHONPATH=scripts:tests/harness $(BIN)/python tests/harness/faults.py faults

faults-release: install ## the same with the full figures, soaks of hours among them
	$(BIN)/python -m kci.stack.goprograms
	PYTHONPATH=scripts:tests/harness $(BIN)/python tests/harness/faults.py release

fix: ## format, and mend what ruff can mend
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

bench: install ## measure; writes bench/results/*.json and a table; KUBELET=1: beside a real kubelet
	$(BIN)/python -m kci.stack.goprograms
	$(BIN)/python bench/run.py $(if $(KUBELET),--kubelet)

image: install ## write the virtual node as an OCI archive, with its bill of materials, to dist/
	$(BIN)/python scripts/build_image.py

docs: install ## make docs/reference and the dashboard from the code, docs/guide-coverage.md from the tests
	$(BIN)/python scripts/reference.py
	$(BIN)/python scripts/guide_coverage.py
	$(BIN)/python scripts/dashboard.py

site: install ## make the docs site in dist/site, without anything from elsewhere
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

lock: ## choose versions anew and write the lock files, with hashes and without host names
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) --upgrade pyproject.toml scripts/build.in --output-file requirements.lock
	$(COMPILE) --upgrade --extra dev --constraints requirements.lock \
		pyproject.toml scripts/build.in --output-file requirements-dev.lock
