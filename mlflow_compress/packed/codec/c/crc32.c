/* zlib's crc32: carry-less multiplication where the processor has it, else eight tables. */
#include "bits.h"
#include "huffman.h"

#if MLC_X86
#include <immintrin.h>
#endif

static uint32_t tables[8][256];
int mlc_has_bmi2, mlc_has_ssse3, mlc_has_clmul, mlc_has_wide_clmul;
static int found_bmi2, found_ssse3, found_clmul, found_wide_clmul;
static long long fold_low, fold_high; /* fold over 1024 bits */

/* x^n modulo the polynomial, bits reversed, as carry-less multiplication needs it */
static long long power_of_x(unsigned n)
{
    uint32_t x = 0x80000000u;
    while (n--) x = x & 1 ? x >> 1 ^ 0xEDB88320u : x >> 1;
    return (long long)x << 1;
}

void mlc_init(void)
{
    for (uint32_t n = 0; n < 256; n++) {
        uint32_t c = n;
        for (int k = 0; k < 8; k++) c = c & 1 ? c >> 1 ^ 0xEDB88320u : c >> 1;
        tables[0][n] = c;
    }
    for (uint32_t n = 0; n < 256; n++)
        for (int k = 1; k < 8; k++)
            tables[k][n] = tables[k - 1][n] >> 8 ^ tables[0][tables[k - 1][n] & 255];
#if MLC_X86
    __builtin_cpu_init();
    found_bmi2 = __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("bmi");
    found_ssse3 = __builtin_cpu_supports("ssse3");
    fold_low = power_of_x(1024 + 32);
    fold_high = power_of_x(1024 - 32);
    found_wide_clmul = __builtin_cpu_supports("vpclmulqdq") && __builtin_cpu_supports("avx2") &&
                       __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
    found_clmul = __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.1");
#endif
    mlc_use_fast_paths(1);
}

void mlc_use_fast_paths(int on)
{
    mlc_has_bmi2 = on && found_bmi2;
    mlc_has_ssse3 = on && found_ssse3;
    mlc_has_clmul = on && found_clmul;
    mlc_has_wide_clmul = on && found_wide_clmul;
}

static uint32_t by_tables(uint32_t crc, const uint8_t *data, size_t size)
{
    while (size >= 8) {
        uint64_t x = mlc_load64(data) ^ crc;
        crc = tables[7][x & 255] ^ tables[6][x >> 8 & 255] ^ tables[5][x >> 16 & 255] ^
              tables[4][x >> 24 & 255] ^ tables[3][x >> 32 & 255] ^ tables[2][x >> 40 & 255] ^
              tables[1][x >> 48 & 255] ^ tables[0][x >> 56];
        data += 8;
        size -= 8;
    }
    while (size--) crc = crc >> 8 ^ tables[0][(crc ^ *data++) & 255];
    return crc;
}

#if MLC_X86
/* Gopal et al., "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ" (Intel, 2009).
 * size is a multiple of 16 and at least 64. */
#define FOLD(x, k, next)                                                                           \
    _mm_xor_si128(_mm_xor_si128(_mm_clmulepi64_si128(x, k, 0x00), _mm_clmulepi64_si128(x, k, 0x11)),\
                  next)

MLC_TARGET("pclmul,sse4.1")
static uint32_t by_folding(uint32_t crc, const uint8_t *data, size_t size)
{
    const __m128i k12 = _mm_set_epi64x(0x01c6e41596, 0x0154442bd4);
    const __m128i k34 = _mm_set_epi64x(0x00ccaa009e, 0x01751997d0);
    const __m128i k5 = _mm_set_epi64x(0, 0x0163cd6124);
    const __m128i poly = _mm_set_epi64x(0x01f7011641, 0x01db710641);
    const __m128i low32 = _mm_setr_epi32(~0, 0, ~0, 0);
    const __m128i *p = (const __m128i *)data;
    __m128i a = _mm_xor_si128(_mm_loadu_si128(p), _mm_cvtsi32_si128((int)crc));
    __m128i b = _mm_loadu_si128(p + 1), c = _mm_loadu_si128(p + 2), d = _mm_loadu_si128(p + 3);
    p += 4;
    size -= 64;
    while (size >= 64) {
        a = FOLD(a, k12, _mm_loadu_si128(p));
        b = FOLD(b, k12, _mm_loadu_si128(p + 1));
        c = FOLD(c, k12, _mm_loadu_si128(p + 2));
        d = FOLD(d, k12, _mm_loadu_si128(p + 3));
        p += 4;
        size -= 64;
    }
    a = FOLD(a, k34, b);
    a = FOLD(a, k34, c);
    a = FOLD(a, k34, d);
    for (; size >= 16; size -= 16) a = FOLD(a, k34, _mm_loadu_si128(p++));
    /* 128 bits to 64 to 32, then Barrett */
    a = _mm_xor_si128(_mm_clmulepi64_si128(a, k34, 0x10), _mm_srli_si128(a, 8));
    b = _mm_srli_si128(a, 4);
    a = _mm_xor_si128(_mm_clmulepi64_si128(_mm_and_si128(a, low32), k5, 0x00), b);
    b = _mm_clmulepi64_si128(_mm_and_si128(a, low32), poly, 0x10);
    b = _mm_clmulepi64_si128(_mm_and_si128(b, low32), poly, 0x00);
    return (uint32_t)_mm_extract_epi32(_mm_xor_si128(a, b), 1);
}
#endif

#if MLC_X86
/* The same, 32 bytes at a time. size is a multiple of 16 and at least 256. */
#define FOLD2(x, k, next)                                                                          \
    _mm256_xor_si256(_mm256_xor_si256(_mm256_clmulepi64_epi128(x, k, 0x00),                        \
                                      _mm256_clmulepi64_epi128(x, k, 0x11)),                       \
                     next)

MLC_TARGET("vpclmulqdq,pclmul,avx2")
static void fold_wide(uint32_t crc, const uint8_t *data, size_t size, uint8_t *out)
{
    const __m256i k = _mm256_broadcastsi128_si256(_mm_set_epi64x(fold_high, fold_low));
    const __m256i *p = (const __m256i *)data;
    __m256i a = _mm256_xor_si256(_mm256_loadu_si256(p),
                                 _mm256_zextsi128_si256(_mm_cvtsi32_si128((int)crc)));
    __m256i b = _mm256_loadu_si256(p + 1), c = _mm256_loadu_si256(p + 2),
            d = _mm256_loadu_si256(p + 3);
    for (p += 4, size -= 128; size >= 128; p += 4, size -= 128) {
        a = FOLD2(a, k, _mm256_loadu_si256(p));
        b = FOLD2(b, k, _mm256_loadu_si256(p + 1));
        c = FOLD2(c, k, _mm256_loadu_si256(p + 2));
        d = FOLD2(d, k, _mm256_loadu_si256(p + 3));
    }
    _mm256_storeu_si256((__m256i *)out, a);
    _mm256_storeu_si256((__m256i *)(out + 32), b);
    _mm256_storeu_si256((__m256i *)(out + 64), c);
    _mm256_storeu_si256((__m256i *)(out + 96), d);
}
#endif

uint32_t mlc_crc32(uint32_t crc, const uint8_t *data, size_t size)
{
    crc = ~crc;
#if MLC_X86
    if (mlc_has_wide_clmul && size >= 256) {
        /* what is left of the folding is 128 bytes with the same remainder */
        uint8_t folded[128];
        size_t whole = size & ~(size_t)127;
        fold_wide(crc, data, whole, folded);
        crc = by_folding(0, folded, sizeof folded);
        data += whole;
        size -= whole;
    }
    if (mlc_has_clmul && size >= 64) {
        size_t whole = size & ~(size_t)15;
        crc = by_folding(crc, data, whole);
        data += whole;
        size -= whole;
    }
#endif
    return ~by_tables(crc, data, size);
}
