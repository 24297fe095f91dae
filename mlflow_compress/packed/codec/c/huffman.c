/* Huffman tables and the kernels that decode eight lanes at once. */
#include "bits.h"
#include "lanes.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

const char *mlc_error_text(int error)
{
    static const char *const texts[] = {
#define X(name, text) text,
        MLC_ERRORS(X)
#undef X
    };
    return error >= 0 && error < MLC_ERROR_COUNT ? texts[error] : "unknown error";
}

static unsigned reverse(unsigned code, unsigned length)
{
    unsigned out = 0;
    while (length--) {
        out = out << 1 | (code & 1);
        code >>= 1;
    }
    return out;
}

/* first[l]: the first canonical code of length l */
static void first_codes(const uint8_t *lengths, unsigned *first)
{
    unsigned count[MLC_MAX_LENGTH + 2] = {0}, code = 0;
    for (unsigned s = 0; s < 256; s++) count[lengths[s]]++;
    count[0] = 0;
    for (unsigned l = 1; l <= MLC_MAX_LENGTH; l++) {
        code = (code + count[l - 1]) << 1;
        first[l] = code;
    }
}

void mlc_codes(const uint8_t *lengths, uint16_t *codes)
{
    unsigned next[MLC_MAX_LENGTH + 2];
    first_codes(lengths, next);
    for (unsigned s = 0; s < 256; s++)
        codes[s] = lengths[s] ? (uint16_t)reverse(next[lengths[s]]++, lengths[s]) : 0;
}

unsigned mlc_build_table(const uint8_t *lengths, uint16_t *entries)
{
    uint8_t order[256];
    unsigned start[MLC_MAX_LENGTH + 2] = {0}, total = 0, longest = 0, at = 0;
    for (unsigned s = 0; s < 256; s++)
        if (lengths[s]) {
            total += MLC_TABLE_SIZE >> lengths[s];
            if (lengths[s] > longest) longest = lengths[s];
            start[lengths[s]]++;
        }
    if (total != MLC_TABLE_SIZE) return 0;
    for (unsigned l = 1; l <= longest; l++) {
        unsigned here = start[l];
        start[l] = at;
        at += here;
    }
    start[longest + 1] = at;
    {
        unsigned next[MLC_MAX_LENGTH + 2];
        memcpy(next, start, sizeof next);
        for (unsigned s = 0; s < 256; s++)
            if (lengths[s]) order[next[lengths[s]]++] = (uint8_t)s;
    }
    /* the table for codes of up to l bits is that for l - 1 twice, plus the codes of l bits */
    unsigned code = 0;
    for (unsigned l = 1; l <= longest; l++) {
        unsigned half = 1u << (l - 1);
        memcpy(entries + half, entries, half * sizeof *entries);
        code <<= 1;
        for (unsigned i = start[l]; i < start[l + 1]; i++)
            entries[reverse(code++, l)] = (uint16_t)(order[i] << 8 | l);
    }
    for (unsigned size = 1u << longest; size < MLC_TABLE_SIZE; size *= 2)
        memcpy(entries + size, entries, size * sizeof *entries);
    return longest;
}

/* A lane being read: the next bits, lowest first, under a sentinel bit that says how many of the
 * 64 were used. After a refill at least 56 bits are there: enough for four symbols.
 *
 * The eight bit buffers take eight registers. The read pointers are volatile, hence in memory,
 * because they are needed once in four symbols: letting the compiler choose what to spill cost a
 * sixth of the speed. */
#define SENTINEL ((uint64_t)1 << 63)
#define PER_REFILL 4
#define DECLARE                                                                                    \
    const uint8_t *volatile in[MLC_LANES];                                                         \
    uint64_t bits0, bits1, bits2, bits3, bits4, bits5, bits6, bits7;
#define START(j)                                                                                   \
    in[j] = lane[j];                                                                               \
    bits##j = mlc_load64(lane[j]) | SENTINEL;
#define REFILL(j)                                                                                  \
    do {                                                                                           \
        unsigned used = MLC_CLZ64(bits##j);                                                        \
        const uint8_t *next = in[j] + (used >> 3);                                                 \
        in[j] = next;                                                                              \
        bits##j = (mlc_load64(next) | SENTINEL) >> (used & 7);                                     \
    } while (0);
#define SYMBOL(j, place)                                                                           \
    do {                                                                                           \
        unsigned entry = entries[bits##j & (MLC_TABLE_SIZE - 1)];                                  \
        bits##j >>= entry & 63;                                                                    \
        (place) = (uint8_t)(entry >> 8);                                                           \
    } while (0);
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define ENDED(j) bad |= (((size_t)(in[j] - lane[j]) * 8 + MLC_CLZ64(bits##j) + 7) >> 3) != size[j];

/* Symbol i of the group is in lane i mod 8. */
MLC_INLINE mlc_error interleaved(const uint16_t *entries, const uint8_t *const *lane,
                                 const uint32_t *size, uint8_t *dst, size_t count)
{
    DECLARE
    EACH(START)
    size_t rows = count / MLC_LANES;
    while (rows >= PER_REFILL) {
#define ROW(j) SYMBOL(j, dst[j])
        EACH(ROW)
#undef ROW
#define ROW(j) SYMBOL(j, dst[8 + j])
        EACH(ROW)
#undef ROW
#define ROW(j) SYMBOL(j, dst[16 + j])
        EACH(ROW)
#undef ROW
#define ROW(j) SYMBOL(j, dst[24 + j])
        EACH(ROW)
#undef ROW
        EACH(REFILL)
        dst += MLC_LANES * PER_REFILL;
        rows -= PER_REFILL;
    }
    while (rows--) {
#define ROW(j) SYMBOL(j, dst[j])
        EACH(ROW)
#undef ROW
        EACH(REFILL)
        dst += MLC_LANES;
    }
    size_t rest = count % MLC_LANES;
#define ROW(j)                                                                                     \
    if (j < rest) SYMBOL(j, dst[j])
    EACH(ROW)
#undef ROW
    unsigned bad = 0;
    EACH(ENDED)
    return bad ? MLC_LANE_END : MLC_OK;
}

/* Lane j holds the symbols from j * (count / 8) on; the last lane also the rest. */
MLC_INLINE mlc_error contiguous_lanes(const uint16_t *entries, const uint8_t *const *lane,
                                      const uint32_t *size, uint8_t *dst, size_t count)
{
    DECLARE
    EACH(START)
    size_t run = count / MLC_LANES, at = 0;
    for (; at + PER_REFILL <= run; at += PER_REFILL) {
#define STEP(j)                                                                                    \
    SYMBOL(j, dst[j * run + at])                                                                   \
    SYMBOL(j, dst[j * run + at + 1])                                                               \
    SYMBOL(j, dst[j * run + at + 2])                                                               \
    SYMBOL(j, dst[j * run + at + 3])                                                               \
    REFILL(j)
        EACH(STEP)
#undef STEP
    }
    for (; at < run; at++) {
#define STEP(j) SYMBOL(j, dst[j * run + at]) REFILL(j)
        EACH(STEP)
#undef STEP
    }
    for (at = run * MLC_LANES; at < count; at++) {
        SYMBOL(7, dst[at])
        REFILL(7)
    }
    unsigned bad = 0;
    EACH(ENDED)
    return bad ? MLC_LANE_END : MLC_OK;
}

/* Order-1 context. Five codes of 11 bits fit into a refill. The lanes are taken four by four, so
 * that their bits and classes stay in registers, and write their symbols interleaved, which needs
 * one pointer; to_lanes() puts them in order while they are in the first cache. */
#define MIXED_ROWS 320u
#define CLASSED(j, place)                                                                          \
    do {                                                                                           \
        uint32_t entry = entries[(bits##j & (MLC_CONTEXT_SIZE - 1)) | class##j];                   \
        bits##j >>= entry & 63;                                                                    \
        class##j = entry >> 16;                                                                    \
        (place) = (uint8_t)(entry >> 8);                                                           \
    } while (0);
#define FOUR(a, b, c, d, row)                                                                      \
    CLASSED(a, at[8 * (row) + (a)])                                                                \
    CLASSED(b, at[8 * (row) + (b)])                                                                \
    CLASSED(c, at[8 * (row) + (c)])                                                                \
    CLASSED(d, at[8 * (row) + (d)])
#define FIVE_ROWS(a, b, c, d)                                                                      \
    FOUR(a, b, c, d, 0)                                                                            \
    FOUR(a, b, c, d, 1)                                                                            \
    FOUR(a, b, c, d, 2)                                                                            \
    FOUR(a, b, c, d, 3)                                                                            \
    FOUR(a, b, c, d, 4)                                                                            \
    REFILL(a)                                                                                      \
    REFILL(b)                                                                                      \
    REFILL(c)                                                                                      \
    REFILL(d)

/* dst[j * step + i] = mixed[8 * i + j] for i in 0..rows */
static void to_lanes(const uint8_t *mixed, size_t rows, uint8_t *dst, size_t step)
{
    size_t i = 0;
#if defined(__SSE2__)
    for (; i + 16 <= rows; i += 16) {
        const __m128i *from = (const __m128i *)(mixed + 8 * i);
        __m128i a[8], b[8];
        for (unsigned k = 0; k < 8; k++) a[k] = _mm_loadu_si128(from + k);
        /* four rounds of dealing the two halves like cards bring each lane's bytes together */
        for (unsigned round = 0; round < 4; round++) {
            for (unsigned k = 0; k < 4; k++) {
                b[2 * k] = _mm_unpacklo_epi8(a[k], a[k + 4]);
                b[2 * k + 1] = _mm_unpackhi_epi8(a[k], a[k + 4]);
            }
            memcpy(a, b, sizeof a);
        }
        for (unsigned j = 0; j < 8; j++) _mm_storeu_si128((__m128i *)(dst + j * step + i), a[j]);
    }
#endif
    for (; i < rows; i++)
        for (unsigned j = 0; j < 8; j++) dst[j * step + i] = mixed[8 * i + j];
}

MLC_INLINE mlc_error classed(const uint32_t *entries, unsigned first, const uint8_t *const *lane,
                             const uint32_t *size, uint8_t *dst, size_t count)
{
    uint8_t mixed[MIXED_ROWS * MLC_LANES];
    DECLARE
    EACH(START)
    unsigned class0 = first, class1 = first, class2 = first, class3 = first, class4 = first,
             class5 = first, class6 = first, class7 = first;
    size_t run = count / MLC_LANES;
    uint8_t *rest = dst + run * MLC_LANES;
    for (size_t done = 0, rows; done < run; done += rows) {
        uint8_t *at = mixed;
        rows = run - done < MIXED_ROWS ? run - done : MIXED_ROWS;
        size_t left = rows;
        for (; left >= 5; left -= 5, at += 5 * MLC_LANES) {
            FIVE_ROWS(0, 1, 2, 3)
            FIVE_ROWS(4, 5, 6, 7)
        }
        for (; left; left--, at += MLC_LANES) {
#define ROW(j) CLASSED(j, at[j]) REFILL(j)
            EACH(ROW)
#undef ROW
        }
        to_lanes(mixed, rows, dst + done, run);
    }
    for (size_t more = count % MLC_LANES; more; more--) {
        CLASSED(7, *rest++)
        REFILL(7)
    }
    unsigned bad = 0;
    EACH(ENDED)
    return bad ? MLC_LANE_END : MLC_OK;
}

static mlc_error classed_plain(const uint32_t *entries, unsigned first,
                               const uint8_t *const *lane, const uint32_t *size, uint8_t *dst,
                               size_t count)
{
    return classed(entries, first, lane, size, dst, count);
}

MLC_TARGET("bmi,bmi2,lzcnt")
static mlc_error classed_bmi2(const uint32_t *entries, unsigned first, const uint8_t *const *lane,
                              const uint32_t *size, uint8_t *dst, size_t count)
{
    return classed(entries, first, lane, size, dst, count);
}

mlc_error mlc_decode_context(const uint32_t *entries, unsigned first, const uint8_t *const *lane,
                             const uint32_t *size, uint8_t *dst, size_t count)
{
    return mlc_has_bmi2 ? classed_bmi2(entries, first, lane, size, dst, count)
                        : classed_plain(entries, first, lane, size, dst, count);
}

MLC_INLINE mlc_error any_group(const uint16_t *entries, const uint8_t *const *lane,
                               const uint32_t *size, uint8_t *dst, size_t count, int contiguous)
{
    return contiguous ? contiguous_lanes(entries, lane, size, dst, count)
                      : interleaved(entries, lane, size, dst, count);
}

static mlc_error group_plain(const uint16_t *entries, const uint8_t *const *lane,
                             const uint32_t *size, uint8_t *dst, size_t count, int contiguous)
{
    return any_group(entries, lane, size, dst, count, contiguous);
}

MLC_TARGET("bmi,bmi2,lzcnt")
static mlc_error group_bmi2(const uint16_t *entries, const uint8_t *const *lane,
                            const uint32_t *size, uint8_t *dst, size_t count, int contiguous)
{
    return any_group(entries, lane, size, dst, count, contiguous);
}

mlc_error mlc_decode_group(const uint16_t *entries, const uint8_t *const *lane,
                           const uint32_t *size, uint8_t *dst, size_t count, int contiguous)
{
    return mlc_has_bmi2 ? group_bmi2(entries, lane, size, dst, count, contiguous)
                        : group_plain(entries, lane, size, dst, count, contiguous);
}

mlc_error mlc_decode_lane(const uint16_t *entries, const uint8_t *first, size_t length,
                          uint8_t *dst, size_t count)
{
    const uint8_t *lane[1] = {first}, *in[1];
    const size_t size[1] = {length};
    uint64_t bits0;
    unsigned bad = 0;
    START(0)
    for (size_t at = 0; at < count; at++) {
        SYMBOL(0, dst[at])
        if (at % PER_REFILL == PER_REFILL - 1) REFILL(0)
    }
    ENDED(0)
    return bad ? MLC_LANE_END : MLC_OK;
}
