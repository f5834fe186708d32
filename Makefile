# `make figures` and `make test` are all a fresh machine needs. Every target sets up .venv first.
PYTHON ?= python3
DATA   ?= data/fruits-mini
OUTPUT ?= output
BIN    := .venv/bin

.PHONY: figures gallery report test bench lab lint clean

figures: .venv/.installed
	$(BIN)/cliphelpers run --data "$(DATA)" --output "$(OUTPUT)"

# What the committed notebooks, pics/, report/ and README show, from what `make figures` has made.
gallery: .venv/.installed
	$(BIN)/python report/gallery.py "$(OUTPUT)"
	$(MAKE) report

# README.md's numbers, report/RESULTS.md, pics/photographs/ and report.pdf from report/results/ and pics/
report: .venv/.installed
	$(BIN)/python report/tables.py
	$(BIN)/python report/figures.py
	$(BIN)/python report/build.py

test: .venv/.installed
	$(BIN)/python -m pytest

# Ours and its peers, timed in turn: benchmarks/bench.csv and benchmarks/RESULTS.md. Wants a quiet machine.
bench: .venv/.installed build/tensorflow/.installed
	$(BIN)/pip install -q -e '.[bench]'
	$(BIN)/python benchmarks/bench.py

# A peer that clashes with our packages
build/tensorflow/.installed:
	$(PYTHON) -m venv build/tensorflow
	build/tensorflow/bin/pip install -q tensorflow-cpu safetensors
	touch $@

# On copies in lab/, which git ignores: what is saved there changes neither notebooks/ nor `make figures`.
# It says the address itself. The kernel python3 is .venv's own, whatever kernels the user has.
lab: .venv/.installed
	@mkdir -p lab
	@for book in notebooks/*.ipynb; do [ -e "lab/$${book##*/}" ] || cp "$$book" lab/; done
	@newer=; for book in notebooks/*.ipynb; do [ "$$book" -nt "lab/$${book##*/}" ] && newer="$$newer $${book##*/}"; done; \
	[ -z "$$newer" ] || echo "notebooks/ has newer ones than lab/:$$newer. To take one, move its copy out of lab/ first."
	JUPYTER_PREFER_ENV_PATH=1 MALLOC_ARENA_MAX=1 $(BIN)/jupyter lab --ip=127.0.0.1 $(if $(filter 0,$(shell id -u)),--allow-root) --log-level=WARN lab

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
