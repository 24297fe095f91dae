#!/usr/bin/env bash
# Fuzzes the C decoder for so many seconds: tests/fuzz/run.sh SECONDS [CORPUS]
# Exits with 0 if nothing was found, and says how many executions that took.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:?usage: tests/fuzz/run.sh SECONDS [CORPUS]}
corpus=${2:-build/fuzz/corpus}
python=${PYTHON:-python3}

if ! command -v clang >/dev/null; then
    apt-get install -y -q clang llvm >/dev/null 2>&1 ||
        { apt-get update -q >/dev/null && apt-get install -y -q clang llvm >/dev/null; }
fi
mkdir -p build/fuzz "$corpus"
clang -g -O1 -std=c11 -fno-sanitize-recover=all -fsanitize=fuzzer,address,undefined \
    tests/fuzz/fuzz_decode.c mlflow_compress/packed/{huffman,parse,leaves,payload,lengths,split,cluster,encode,crc32}.c \
    -o build/fuzz/fuzz_decode
PYTHONPATH=. "$python" tests/fuzz/make_corpus.py build/fuzz/seeds
build/fuzz/fuzz_decode -max_total_time="$seconds" -max_len=20000 -timeout=10 -rss_limit_mb=2048 \
    -print_final_stats=1 -artifact_prefix=build/fuzz/ "$corpus" build/fuzz/seeds 2>build/fuzz/log ||
    { tail -60 build/fuzz/log; exit 1; }
grep -aE "stat::number_of_executed_units|cov:" build/fuzz/log | tail -2
