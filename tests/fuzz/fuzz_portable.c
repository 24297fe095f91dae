/* libFuzzer harness of the portable profile's readers, as fuzz_decode.c is of the compact one's.
 *
 * Eight bytes choose which reader, width, step, codes, items and segments; then come tree, starts
 * and stream (or the bits of levels, or moves), each in a buffer of exactly its size. */
#include <stdlib.h>
#include <string.h>

#include "../../mlflow_compress/packed/codec/c/portable.h"

static uint8_t values[MLC_PORTABLE_SYMBOLS * 8];
static void *scratch;

static void *room(size_t size)
{
    return aligned_alloc(64, (size + 63) & ~(size_t)63);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    mlc_init();
    for (size_t i = 0; i < sizeof values; i++) values[i] = (uint8_t)(i * 37 ^ i >> 8);
    scratch = room(MLC_PORTABLE_WORK);
    return scratch ? 0 : 1;
}

static uint8_t *copy(const uint8_t *data, size_t size)
{
    uint8_t *out = malloc(size ? size : 1);
    if (size) memcpy(out, data, size);
    return out;
}

static void segments(const uint8_t *data, size_t size, mlc_segments from, size_t count, int head)
{
    from.tree_size = (from.codes + 3) / 4;
    from.step = head & 16 ? 128 : 64;
    from.start_width = head & 32 ? 2 : 1;
    if (size < from.tree_size) return;
    from.segments = (size - from.tree_size) / (from.step + from.start_width);
    size_t starts = from.segments * from.start_width, work = MLC_PORTABLE_WORK;
    uint8_t *tree = copy(data, from.tree_size);
    uint8_t *begun = copy(data + from.tree_size, starts);
    uint8_t *stream = copy(data + from.tree_size + starts, from.segments * from.step);
    uint8_t *fast = malloc(count * from.width + 1), *plain = malloc(count * from.width + 1);
    from.tree = tree;
    from.starts = begun;
    from.stream = stream;
    mlc_use_fast_paths(1);
    mlc_error first = mlc_portable_segments(&from, fast, count, scratch, work);
    mlc_use_fast_paths(0);
    mlc_error second = mlc_portable_segments(&from, plain, count, scratch, work);
    if (first != second || first == MLC_WORKSPACE) abort();
    if (first == MLC_OK && memcmp(fast, plain, count * from.width)) abort();
    free(tree);
    free(begun);
    free(stream);
    free(fast);
    free(plain);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 8) return 0;
    int head = data[0];
    unsigned width = 1u << (head >> 2 & 3), codes = (data[1] | (unsigned)data[2] << 8) % 1026;
    size_t count = data[3] | (size_t)data[4] << 8 | (size_t)(data[5] & 3) << 16;
    uint8_t *symbols = copy(values, (size_t)(codes > 1024 ? 1024 : codes) * width);
    data += 8;
    size -= 8;
    if ((head & 3) < 2) {
        mlc_segments from = {.values = symbols, .codes = codes, .width = width};
        segments(data, size, from, count, head);
    } else if ((head & 3) == 2) {
        uint8_t *bits = copy(data, size), *out = malloc(count * width + 1);
        void *work = room(MLC_LEVELS_WORK(count));
        mlc_portable_levels(bits, size, symbols, codes, head & 16 ? 12 : 15, width, out, count,
                            work, MLC_LEVELS_WORK(count));
        free(bits);
        free(out);
        free(work);
    } else {
        size_t moved = size / (1 + width);
        uint8_t *moves = copy(data, moved), *stored = copy(data + moved, moved * width);
        uint8_t *out = malloc(count * width + 1);
        mlc_portable_scatter(moves, stored, moved, values, width, out, count);
        free(moves);
        free(stored);
        free(out);
    }
    free(symbols);
    return 0;
}
