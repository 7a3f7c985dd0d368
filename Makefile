# make demo   the main job on real text      make test   all tests
# make lint   formatting, lint, types        make bench  microbenchmarks
# Needs Python 3.11 or newer and a C++ compiler; everything else is installed into .venv.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := $(shell find csrc kernels pycat -type f -not -name '*.pyc') CMakeLists.txt pyproject.toml

.PHONY: venv demo test lint format bench clean

venv: .venv/.installed

.venv/.requirements: requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

.venv/.installed: .venv/.requirements $(SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps \
		--force-reinstall $(if $(CI),--config-settings=cmake.define.PYCAT_WERROR=ON) .
	touch $@

# Your own text: make demo SRC=train.en TGT=train.de [OUT=demo]
OUT ?= demo
demo: venv
	$(BIN)/pycat-demo --out $(OUT) $(if $(SRC),--src $(SRC) --tgt $(TGT))

test: venv
	$(BIN)/pytest -q

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror csrc/*.cpp csrc/*.h
	cd tests && ../$(BIN)/mypy --config-file ../pyproject.toml -p pycat && \
		../$(BIN)/mypy --config-file ../pyproject.toml . ../bench
	$(BIN)/codespell README.md bench csrc docs kernels pycat tests

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i csrc/*.cpp csrc/*.h

bench: venv
	for bench in bench/bench_*.py; do $(BIN)/python $$bench --quick || exit 1; done

clean:
	rm -rf build .venv
