/* Unaligned little-endian loads and small helpers, shared by the codec's files. */
#ifndef MLC_BITS_H
#define MLC_BITS_H

#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) || defined(__clang__)
#define MLC_INLINE static inline __attribute__((always_inline))
#define MLC_CLZ64(x) ((unsigned)__builtin_clzll(x))
#define MLC_CTZ64(x) ((unsigned)__builtin_ctzll(x))
#else
#define MLC_INLINE static __forceinline
#include <intrin.h>
static __forceinline unsigned MLC_CLZ64(uint64_t x)
{
    unsigned long top;
    _BitScanReverse64(&top, x);
    return 63u - (unsigned)top;
}
static __forceinline unsigned MLC_CTZ64(uint64_t x)
{
    unsigned long bottom;
    _BitScanForward64(&bottom, x);
    return (unsigned)bottom;
}
#endif

#if (defined(__x86_64__) && defined(__GNUC__))
#define MLC_X86 1
#define MLC_TARGET(list) __attribute__((target(list)))
#else
#define MLC_X86 0
#define MLC_TARGET(list)
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define MLC_LITTLE 0
#define mlc_swap64(x) __builtin_bswap64(x)
#else
#define MLC_LITTLE 1
#define mlc_swap64(x) (x)
#endif

MLC_INLINE uint64_t mlc_load64(const uint8_t *p)
{
    uint64_t x;
    memcpy(&x, p, 8);
    return mlc_swap64(x);
}

MLC_INLINE void mlc_store64(uint8_t *p, uint64_t x)
{
    x = mlc_swap64(x);
    memcpy(p, &x, 8);
}

/* An item of 1, 2, 4 or 8 little-endian bytes. */
MLC_INLINE uint64_t mlc_load_item(const uint8_t *p, unsigned width)
{
    uint64_t x = 0;
    for (unsigned i = 0; i < width; i++) x |= (uint64_t)p[i] << 8 * i;
    return x;
}

/* What this processor can do; set by mlc_init(). */
extern int mlc_has_bmi2, mlc_has_ssse3, mlc_has_clmul, mlc_has_wide_clmul;

#endif
