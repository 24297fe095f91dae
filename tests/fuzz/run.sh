#!/usr/bin/env bash
# Fuzzes the C decoders for so many seconds each: tests/fuzz/run.sh SECONDS [CORPUS]
# TARGETS (default: "decode portable") chooses which. Exits with 0 if nothing was found, and says
# how many executions that took; with 1 if a decoder failed; with 77 if there is no clang and none
# can be installed here.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:?usage: tests/fuzz/run.sh SECONDS [CORPUS]}
build=${FUZZ_BUILD:-build/fuzz}
corpus=${2:-$build/corpus}
python=${PYTHON:-python3}

if ! command -v clang >/dev/null; then
    if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
        echo "not fuzzed: clang is missing, and only root on Debian can have it installed here" >&2
        exit 77
    fi
    apt-get install -y -q clang llvm >/dev/null 2>&1 ||
        { apt-get update -q >/dev/null && apt-get install -y -q clang llvm >/dev/null; } ||
        { echo "not fuzzed: clang is missing, and apt-get did not install it" >&2; exit 77; }
fi
mkdir -p "$build"
PYTHONPATH=. "$python" tests/fuzz/make_corpus.py "$build/seeds" "$build/seeds-portable"
codec=mlflow_compress/packed/codec/c
for target in ${TARGETS:-decode portable}; do
    seeds=$build/seeds found=$corpus
    [ "$target" = decode ] || seeds=$seeds-$target found=$found-$target
    mkdir -p "$found"
    # FUZZ_CFLAGS: for the test that a failure is noticed
    clang -g -O1 -std=c11 -fno-sanitize-recover=all -fsanitize=fuzzer,address,undefined \
        ${FUZZ_CFLAGS:-} "tests/fuzz/fuzz_$target.c" \
        "$codec"/{huffman,memory,parse,leaves,payload,lengths,split,cluster,encode,crc32,portable}.c \
        -o "$build/fuzz_$target"
    "$build/fuzz_$target" -max_total_time="$seconds" -max_len=20000 -timeout=10 \
        -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$build/" "$found" "$seeds" \
        2>"$build/log" || { tail -60 "$build/log" >&2; exit 1; }
    echo "$target: $(grep -aE "stat::number_of_executed_units|cov:" "$build/log" | tail -2)"
done
