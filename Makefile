# Every target works alone after a fresh clone, given Python 3.11+ and make. uv is installed into .uv when it is missing.
PYTHON ?= python3
UV_VERSION := 0.13.9
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
RUN := $(UV) run --frozen --all-extras

.PHONY: demo test check format bench faults install

demo: install
	$(RUN) tollhouse demo $(ARGS)

# Most tests wait for processes they have started, so that four at a time are no more than two cores carry.
test: check
	$(RUN) pytest -n 4 --dist loadgroup $(ARGS)

check: install
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(RUN) lint-imports
	$(RUN) python scripts/check_sizes.py

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
