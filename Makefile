# `make figures` and `make test` are all a fresh machine needs. Every target sets up .venv first.
PYTHON ?= python3
DATA   ?= data/fruits-mini
OUTPUT ?= output
BIN    := .venv/bin
EMBEDDED := data/fruits-mini

.PHONY: figures report test lab lint clean

figures: .venv/.installed
	$(BIN)/cliphelpers run --data "$(DATA)" --output "$(OUTPUT)"
	@if [ "$(DATA)" = "$(EMBEDDED)" ]; then mkdir -p pics; cp "$(OUTPUT)"/pics/*.jpg pics/; fi  # the README's gallery

# report.pdf from the tables in report/results/ and the figures in pics/
report: .venv/.installed
	$(BIN)/python report/build.py

test: .venv/.installed
	$(BIN)/python -m pytest

# It says the address itself. The kernel python3 is .venv's own, whatever kernels the user has.
lab: .venv/.installed
	JUPYTER_PREFER_ENV_PATH=1 $(BIN)/jupyter lab --ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) --log-level=WARN notebooks

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check cliphelpers tests report benchmarks

.venv: .venv/.installed

.venv/.installed: pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.10 or later is needed; '$(PYTHON)' was not found. Install it or say which: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or later is needed; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Say which to use: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -e '.[test]'
	touch $@

clean:
	rm -rf .venv $(OUTPUT) build *.egg-info
	find . \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
