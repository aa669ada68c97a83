# Two commands for a fresh machine with Python 3.11: make demo, make test.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
DEMO := demo

.PHONY: demo test test-fast test-clients test-frameworks mutants fuzz lint format docs wheel clean

$(INSTALLED): requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

# Trains on drawn scenes, quantization-aware from step 860 on, then ships and scores every variant.
demo: $(INSTALLED)
	rm -rf $(DEMO)
	$(BIN)/python -m deeplab_tf.train --dataset=synthetic --run_dir=$(DEMO) \
		--width_multiplier=0.5 --aspp_channels=128 --decoder_channels=64 \
		--crop_size=128,160 --train_steps=1000 --quantize_delay_step=860 \
		--optimizer=adamw --learning_rate=0.004 --quantize_learning_rate=0.0002 \
		--warmup_steps=20 --batch_norm_momentum=0.9 --min_scale=0.8 --max_scale=1.6 \
		--validation_interval=430 --checkpoint_interval=430 \
		--holdout_images=20 --validation_split=holdout
	$(BIN)/python -m export.to_tflite --run_dir=$(DEMO) --heads=logits --calibration_images=32
	$(BIN)/python -m tflite_tools.evaluate --run_dir=$(DEMO) --latency_repeats=10 --grid_images=4

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Without the tests marked slow.
test-fast: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

# Other programs on the zoo's file, each in its own environment; browser ones need Node.js 20, Chromium.
test-clients: $(INSTALLED)
	$(BIN)/python -m clients.run

# Networks of PyTorch, ONNX and Keras 3, converted in environments that the command makes (gigabytes, once).
test-frameworks: $(INSTALLED)
	DEEPLAB_TEST_FRAMEWORKS=1 $(BIN)/python -m pytest -q tests/frameworks

# Deliberate breaks of the numeric code that no test notices; hours for all: MUTANTS=N of each area.
MUTANTS ?= 60
mutants: $(INSTALLED)
	test -x .mutants/bin/cosmic-ray || ($(PYTHON) -m venv .mutants && \
		.mutants/bin/pip install --quiet --disable-pip-version-check cosmic-ray==8.7.0)
	PATH="$(CURDIR)/.mutants/bin:$$PATH" .mutants/bin/python tests/mutation/run.py --count=$(MUTANTS)

# Random and damaged files for every parser; minutes for each of eight: MINUTES=N.
MINUTES ?= 3
fuzz: $(INSTALLED)
	test -d .fuzz/packages/atheris || $(BIN)/pip install --quiet --disable-pip-version-check \
		--no-deps --target .fuzz/packages atheris==3.0.0
	$(BIN)/python tests/fuzz/run.py --minutes=$(MINUTES)

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The pages of docs/, with the reference of commands and of the Python API, in site/.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# One file in dist/ that installs one import name, deeplab_tflite (docs/decisions.md).
wheel: $(INSTALLED)
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) .mutants .fuzz $(DEMO) build dist site *.egg-info clients/.envs clients/browser/node_modules
