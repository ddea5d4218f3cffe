# Every target works alone after a fresh clone, given Python 3.11+ and make. uv is installed into .uv when it is missing.
PYTHON ?= python3
UV_VERSION := 0.13.9
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
RUN := $(UV) run --frozen --all-extras

# Tests start hundreds of interpreters. What one of them has compiled is there for the others, also where containers are told otherwise.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: programs demo test check audit format bench faults install

demo: install
	$(RUN) tollhouse demo $(ARGS)

# The programs of the tests that no package of Python's brings in a form to rely on. Where one is not there, and may not be installed,
# the tests that need it are skipped and say so.
programs:
	@$(call found,nginx) || $(call installed,nginx-light) \
	  || echo "nginx is not installed: tests of the edge that need it are skipped (apt-get install nginx-light, or the like)"
	@$(call found,chromium) || $(call found,chromium-browser) || $(call found,google-chrome) || $(call installed,chromium) \
	  || echo "chromium is not installed: the tests of the demo's page are skipped (apt-get install chromium, or the like)"

found = { command -v $(1) >/dev/null || test -x /usr/sbin/$(1); }
installed = { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq \
	  && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1); }

# Most tests wait for processes they have started, so that four at a time are no more than two cores carry. In the order of the
# folders, those that take longest come first, and no worker is left with one of them at the end.
test: check programs
	$(RUN) pytest -n 4 --dist loadgroup --no-loadscope-reorder $(ARGS)

check: install
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(RUN) lint-imports
	$(RUN) python scripts/check_sizes.py

# Known vulnerabilities in what uv.lock names, as osv.dev knows them. Where it cannot be asked that is told; ARGS=--required fails then.
audit: install
	UV=$(UV) $(RUN) python scripts/audit.py $(ARGS)

format: install
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

# nginx and wrk are needed: `apt-get install nginx-light wrk` or the like.
bench: install
	PYTHONPATH=tests $(RUN) python -m bench $(ARGS)

# The long runs: every test marked slow, and the properties with many more examples.
faults: install
	$(RUN) pytest -m slow --timeout 3600 $(ARGS)
	HYPOTHESIS_PROFILE=long $(RUN) pytest tests/property --timeout 3600 $(ARGS)

install: $(UV)
	@$(UV) sync --frozen --all-extras --quiet

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet uv==$(UV_VERSION)
