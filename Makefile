# make demo   the main job on real text      make test       all tests
# make lint   formatting, lint, types        make test-isa   numeric tests, as on older processors
# make fuzz   a million damaged files        make sanitize   tests under sanitizers
# make bench  microbenchmarks                make gpu        what only a GPU can show
# make test-arm   the kernels as on 64-bit Arm, emulated
# make docs   the documentation as a site: build/site/index.html
# make study  what halves of a text are worth    make study-report   its tables and charts
# make wheels wheels for x86-64 and 64-bit Arm, in dist/
# make chaos  kills, full disks, damage, races
# Needs Python 3.11 or newer and a C++ compiler; everything else is installed into .venv.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := $(shell find csrc kernels pycat -type f -not -name '*.pyc') CMakeLists.txt pyproject.toml

.PHONY: venv demo docs test test-isa lint format bench study study-report chaos gpu fuzz sanitize test-arm wheels clean

venv: .venv/.installed

.venv/.requirements: requirements-dev.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

.venv/.installed: .venv/.requirements $(SOURCES)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps \
		--force-reinstall $(if $(CI),--config-settings=cmake.define.PYCAT_WERROR=ON) .
	touch $@

# 30 % of the collected text is spoilt, to see what pycat drops of it; SPOIL=0 leaves it as it is.
# Your own text, never spoilt: make demo SRC=train.en TGT=train.de [OUT=demo]
OUT ?= demo
SPOIL ?= 30
demo: venv
	$(BIN)/pycat-demo --out $(OUT) --spoil $(SPOIL) $(if $(SRC),--src $(SRC) --tgt $(TGT))

test: venv
	$(BIN)/pytest -q

# The numeric tests as on each kind of processor that this one contains. PYCAT_CPU_ISA chooses the
# kernels of the extension, the other variables those of NumPy (in whose OpenBLAS Triton's
# interpreter computes) and of PyTorch: each sums in an order of its own.
TESTS_NUMERIC := tests/test_tolerances.py tests/kernels/test_cross_entropy.py \
	tests/kernels/test_reference.py tests/scoring tests/proxy/test_transformer.py tests/ranking \
	tests/filters tests/scores/test_score_table.py tests/evaluation/test_beam_search.py \
	tests/core/test_training_loops.py
AS_portable := OPENBLAS_CORETYPE=Prescott MKL_CBWR=COMPATIBLE ATEN_CPU_CAPABILITY=default
AS_avx2 := OPENBLAS_CORETYPE=Haswell MKL_CBWR=AVX2 ATEN_CPU_CAPABILITY=avx2
AS_avx_vnni := $(AS_avx2)
AS_avx512 := OPENBLAS_CORETYPE=SkylakeX MKL_CBWR=AVX512 ATEN_CPU_CAPABILITY=avx512
AS_avx512_bf16 := $(AS_avx512)
test-isa: venv
	$(MAKE) --output-sync=target -j2 $$($(BIN)/python -P -c \
		"from pycat import _core; print(*(f'test-as-{isa}' for isa in _core.supported_cpu_isas()))")

test-as-avx2 test-as-avx_vnni test-as-avx512: TESTS_NUMERIC += tests/kernels/test_triton_kernels.py
test-as-%: venv
	env PYCAT_CPU_ISA=$* $(AS_$*) OMP_NUM_THREADS=1 $(BIN)/pytest -q -p no:cacheprovider $(TESTS_NUMERIC)

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror csrc/*/*.cpp csrc/*/*.h tests/core/*.cpp
	cd tests && ../$(BIN)/mypy --config-file ../pyproject.toml -p pycat && \
		MYPYPATH=support:../bench ../$(BIN)/mypy --config-file ../pyproject.toml . ../bench ../wheels
	$(BIN)/codespell README.md bench csrc docs kernels pycat tests wheels

format: venv
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i csrc/*/*.cpp csrc/*/*.h tests/core/*.cpp

# A warning, such as of a link that leads nowhere, is an error.
docs: venv
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: venv
	for bench in bench/bench_*.py; do $(BIN)/python $$bench --quick || exit 1; done

# What halves of a text are worth, arm by arm; it goes on where it was. Tab-separated files:
# make study TEXT=train.tsv NAME=en-de STUDY='--test news=news.tsv --languages en,de --seeds 3'
NAME ?= text
STUDY ?=
study: venv
	$(BIN)/python bench/study.py --tsv $(TEXT) --name $(NAME) --work build/study/$(NAME) \
		--json bench/study/$(NAME).json $(STUDY)

# Tables and charts of docs/evidence.md, from the results in bench/study/.
study-report: venv
	$(BIN)/python bench/study_report.py

# A thousand kills of each verb take many hours. The same command goes on where it was; with
# another pycat, delete build/chaos first. For half an hour: make chaos CHAOS='--minutes 30'
CHAOS ?=
chaos: venv
	$(BIN)/python bench/chaos.py --work build/chaos $(CHAOS)

# On a machine with a GPU, by the Python that has a torch for it and no .venv: builds and installs
# pycat there, checks and measures, each part within its time. DEVICE=cpu tries the script itself.
DEVICE ?= cuda
BUDGET ?= 480
GPU_PYTHON ?= $(if $(filter cpu,$(DEVICE)),$(BIN)/python,$(PYTHON))
gpu: $(if $(filter cpu,$(DEVICE)),venv)
	$(GPU_PYTHON) bench/gpu/run.py --device $(DEVICE) --budget $(BUDGET) --out $(if $(filter file,$(origin OUT)),gpu-results,$(OUT)) \
		$(if $(PARTS),--parts $(PARTS)) $(if $(KEEP_GOING),--keep-going)

# About a minute on an idle core. More inputs, or others: make fuzz INPUTS=10000000 SEED=7
INPUTS ?= 1000000
SEED ?= 0
fuzz: build/address/drivers
	build/address/fuzz_index $(INPUTS) $(SEED)

# The tests of the extension under AddressSanitizer and UBSan, then its threads under
# ThreadSanitizer. That cannot see what Python and torch, not built for it, do to memory: it gets
# a program of its own. Nor does it bear with random addresses. libstdc++ is loaded early for
# AddressSanitizer to find what throws.
SANITIZED := build/sanitized
TESTS_SANITIZED := tests/core tests/data/test_batches.py tests/data/test_corpus.py \
	tests/kernels/test_cross_entropy.py tests/scoring/test_cpu_forward.py \
	tests/filters/test_language.py tests/filters/test_lexical.py tests/ranking/test_top_k.py
sanitize: build/address/drivers build/thread/drivers $(SANITIZED)/.installed
	build/address/check_kernels
	build/address/fuzz_index 100000
	build/address/stress_streams
	setarch --addr-no-randomize build/thread/stress_streams
	ASAN_OPTIONS=detect_leaks=0:handle_sigbus=0:allocator_may_return_null=1 \
		LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so.6)" \
		$(SANITIZED)/bin/python -P -m pytest -q -p no:cacheprovider $(TESTS_SANITIZED)

build/address/drivers: SANITIZERS := address;undefined
build/thread/drivers: SANITIZERS := thread
build/%/drivers: .venv/.installed $(wildcard tests/core/*.cpp)
	$(BIN)/cmake -G Ninja -S . -B $(@D) -DPYCAT_DRIVERS=ON -DPYCAT_WERROR=ON \
		-DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja "-DPYCAT_SANITIZE=$(SANITIZERS)"
	$(BIN)/cmake --build $(@D)
	touch $@

# Values only: an emulator says nothing of speed. A Cortex-A53 has no dot products. Debian has g++-aarch64-linux-gnu and qemu-user.
ARM_CXX ?= aarch64-linux-gnu-g++
ARM_EMULATOR ?= qemu-aarch64 -L /usr/aarch64-linux-gnu
test-arm: .venv/.installed
	$(BIN)/cmake -G Ninja -S . -B build/arm -DPYCAT_DRIVERS=ON -DPYCAT_WERROR=ON \
		-DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja -DCMAKE_SYSTEM_NAME=Linux \
		-DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=$(ARM_CXX)
	$(BIN)/cmake --build build/arm --target check_kernels
	$(ARM_EMULATOR) -cpu max build/arm/check_kernels
	$(ARM_EMULATOR) -cpu cortex-a53 build/arm/check_kernels

# One wheel for each Python from 3.11 on that PATH has, or for those of make wheels PYTHONS=python3.12.
# Fetches a compiler (zig) into build/wheels.
PYTHONS ?=
wheels: .venv/.requirements
	$(BIN)/python wheels/build.py $(if $(PYTHONS),--pythons $(PYTHONS))

# An environment with a package of its own, and all else from .venv.
$(SANITIZED)/.installed: .venv/.installed
	$(BIN)/python -m venv --without-pip $(SANITIZED)
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > \
		$$($(SANITIZED)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/base.pth
	$(BIN)/pip --python $(SANITIZED)/bin/python install --quiet --disable-pip-version-check \
		--no-build-isolation --no-deps --ignore-installed . \
		--config-settings=build-dir=build/sanitized-extension \
		--config-settings=cmake.define.PYCAT_WERROR=ON \
		"--config-settings=cmake.define.PYCAT_SANITIZE=address;undefined"
	touch $@

clean:
	rm -rf build .venv
