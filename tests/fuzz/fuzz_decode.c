/* libFuzzer harness: any bytes are a payload. Under AddressSanitizer and UBSan nothing may be read
 * or written outside the ranges that huffman.h states, whatever the payload says.
 *
 * The first three bytes choose the width and the number of items; the rest is the payload, in a
 * buffer of exactly its size. Both code paths run, and must agree. */
#include <stdlib.h>
#include <string.h>

#include "../../mlflow_compress/packed/codec/c/huffman.h"

static void *work;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    mlc_init();
    work = aligned_alloc(64, MLC_WORK_MAX);
    return work ? 0 : 1;
}

static mlc_error decode(const uint8_t *payload, size_t size, uint8_t *out, size_t count,
                        unsigned width, uint32_t *crc)
{
    /* a small workspace first, as the binding does, so that running out of it is tried too */
    mlc_error error = mlc_decode(payload, size, out, count, width, work, MLC_WORK_MIN, crc);
    if (error == MLC_WORKSPACE)
        error = mlc_decode(payload, size, out, count, width, work, MLC_WORK_MAX, crc);
    return error;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3) return 0;
#ifdef MLC_PLANTED
    /* what tests/fuzz/test_fuzz.py plants to see that it is found: one byte read past the end */
    volatile uint8_t *end = malloc(1);
    if (data[1] == 0x2a) (void)end[1];
    free((void *)end);
#endif
    unsigned width = 1u << (data[0] & 3);
    size_t count = (size_t)(data[0] >> 2 & 3) << 16 | (size_t)data[1] << 8 | data[2];
    uint8_t *payload = malloc(size - 3 ? size - 3 : 1);
    uint8_t *fast = malloc(count * width + 1), *plain = malloc(count * width + 1);
    uint32_t crc[2] = {0, 0};
    memcpy(payload, data + 3, size - 3);
    mlc_use_fast_paths(1);
    mlc_error first = decode(payload, size - 3, fast, count, width, &crc[0]);
    mlc_use_fast_paths(0);
    mlc_error second = decode(payload, size - 3, plain, count, width, &crc[1]);
    if (first != second || first == MLC_WORKSPACE) abort();
    if (first == MLC_OK && (crc[0] != crc[1] || memcmp(fast, plain, count * width))) abort();
    free(payload);
    free(fast);
    free(plain);
    return 0;
}
