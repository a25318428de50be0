## make demo   predict on photographs and write demo/index.html; on your own too: make demo IMAGES="a.jpg b.png"
## make serve  an HTTP API and a page to drop pictures on, with the bundled weights: http://127.0.0.1:8000
## make gallery  val pictures with prediction and truth, into gallery/; the sets lie in DATA=../shared/data
## make test   run the whole test suite; some of it: make test PYTEST_ARGS="tests/geometry -m 'not slow'"
## make lint   ruff, mypy, codespell
## make sanitize  the tests of the compiled kernels under AddressSanitizer and UndefinedBehaviorSanitizer
## make bench  measure speed side by side into benchmarks/RESULTS.md: make bench PRESET=gpu BENCH_ARGS="--peer official=PATH"
## make gpu    learn everything from a CUDA device in minutes: make gpu GPU_ARGS="--minutes 8 --out DIR"; benchmarks/GPU.md
## make clean  remove what the others wrote, except the environment in .venv

PYTHON ?= python3
# Test processes, one torch thread each.
WORKERS ?= 2
IMAGES ?=
# Folder of the small sets, for the gallery.
DATA ?= ../shared/data
# Standard set of measurements (cpu or gpu), and further options of benchmarks/run.py.
PRESET ?= cpu
BENCH_ARGS ?=
# Options of benchmarks/gpu.py.
GPU_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CODE := src tests hatch_build.py $(wildcard examples benchmarks)

.DELETE_ON_ERROR:
.PHONY: help demo serve gallery test lint sanitize apart bench gpu clean

help:
	@sed -n 's/^## //p' Makefile

demo: $(INSTALLED)
	$(BIN)/python examples/demo.py $(IMAGES)

serve: $(INSTALLED)
	$(BIN)/hrformer serve hrformer_tiny_people17 hrformer_tiny_petspeople hrformer_tiny_things

gallery: $(INSTALLED)
	$(BIN)/python examples/gallery.py --data $(DATA)

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/codespell

# Without a package index the tests that need them are skipped, and say so.
apart: $(INSTALLED)
	-@$(BIN)/python tests/readers_environment.py 2>/dev/null

bench: $(INSTALLED)
	$(BIN)/python benchmarks/run.py --preset $(PRESET) --out runs/bench-$(PRESET) --results benchmarks/RESULTS.md $(BENCH_ARGS)

gpu: $(INSTALLED)
	$(BIN)/python benchmarks/gpu.py $(GPU_ARGS)

clean:
	rm -rf build dist demo gallery .mypy_cache .pytest_cache .ruff_cache
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +

# Compiled by the installation.
NATIVE := hatch_build.py src/hrformer/fast/x86/build.py $(wildcard src/hrformer/fast/x86/source/*.* src/hrformer/fast/x86/source/half/*)

# Checks by calls, not in line: half the time to compile. Fused products, else of -O2: without them sums round otherwise.
SANITIZER := -O1 -fexpensive-optimizations -g1 -w -fno-omit-frame-pointer -fsanitize=address,undefined \
  -fno-sanitize-recover=all --param asan-instrumentation-with-call-threshold=0
SANITIZED := $(CURDIR)/build/sanitize
SANITIZED_TESTS := $(filter-out %/test_build.py,$(wildcard tests/fast/x86/test_*.py))
# Loaded before Python, which is compiled without them. Absolute paths, where they are there.
RUNTIMES := $(filter /%,$(foreach name,asan ubsan,$(shell $(CXX) -print-file-name=lib$(name).so 2>/dev/null)))

ifeq ($(words $(RUNTIMES)),2)
# Where something watches the operations, no kernel runs. A report goes to a file, as pytest keeps what a test prints, and so may be one of a process that a test has started.
sanitize: $(INSTALLED) $(SANITIZED)/kernels_avx512.so
	@rm -f $(SANITIZED)/report.*
	LD_PRELOAD="$(RUNTIMES)" PYTHONMALLOC=malloc HRFORMER_NATIVE_FOLDER=$(SANITIZED) \
	  ASAN_OPTIONS=detect_leaks=0:log_path=$(SANITIZED)/report \
	  UBSAN_OPTIONS=print_stacktrace=1:log_path=$(SANITIZED)/report \
	  $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow" -k "not what_watches_operations" $(SANITIZED_TESTS); \
	  status=$$?; cat $(SANITIZED)/report.* 2>/dev/null && exit 1; exit $$status
else
sanitize:
	@echo "make sanitize needs g++ on Linux with libasan and libubsan; '$(CXX)' has not both" >&2; exit $(if $(CI),1,0)
endif

# Memory that AMX's instructions read and write is seen in the emulation of the kernels in bfloat16 alone.
# Order-only on the empty environment: with --jobs they are compiled while packages are installed, which they do without.
$(SANITIZED)/kernels_avx512.so: $(NATIVE) Makefile | $(BIN)/pip
	@mkdir -p $(SANITIZED)/emulated
	CXX="$(CXX)" $(BIN)/python src/hrformer/fast/x86/build.py --emulated $(SANITIZED)/emulated $(SANITIZER)
	CXX="$(CXX)" $(BIN)/python src/hrformer/fast/x86/build.py $(SANITIZED) $(SANITIZER)

# Order-only: the interpreter's date says nothing about what is installed.
$(INSTALLED): pyproject.toml $(NATIVE) | $(BIN)/pip
	@echo "Installing hrformer and its dependencies into $(VENV): several minutes the first time"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[dev,demo]'
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' || { \
	  echo "hrformer needs Python 3.11 to 3.14, but '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)." \
	    "Name another: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments: its module ensurepip or venv is missing." \
	    "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
