/* Huffman tables and the kernels that decode eight lanes at once. */
#include "bits.h"
#include "lanes.h"

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
