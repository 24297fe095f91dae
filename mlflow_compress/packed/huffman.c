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
    return longest;
}

/* A lane being read: the next bits, lowest first, under a sentinel bit that says how many of the
 * 64 were used. After a refill at least 56 bits are there. */
#define SENTINEL ((uint64_t)1 << 63)
#define START(j) uint64_t bits##j = mlc_load64(lane[j]) | SENTINEL; const uint8_t *in##j = lane[j]
#define REFILL(j)                                                                                  \
    do {                                                                                           \
        unsigned used = MLC_CLZ64(bits##j);                                                        \
        in##j += used >> 3;                                                                        \
        bits##j = (mlc_load64(in##j) | SENTINEL) >> (used & 7);                                    \
    } while (0)
#define SYMBOL(j, place)                                                                           \
    do {                                                                                           \
        unsigned entry = entries[bits##j & mask];                                                  \
        bits##j >>= entry & 63;                                                                    \
        (place) = (uint8_t)(entry >> 8);                                                           \
    } while (0)
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define ENDED(j)                                                                                   \
    bad |= (((size_t)(in##j - lane[j]) * 8 + MLC_CLZ64(bits##j) + 7) >> 3) != size[j];

/* Symbol i of the group is in lane i mod 8. */
MLC_INLINE mlc_error interleaved(const mlc_table *table, const uint8_t *const *lane,
                                 const uint32_t *size, uint8_t *dst, size_t count,
                                 unsigned per_refill)
{
    const uint16_t *entries = table->entries;
    const uint64_t mask = ((uint64_t)1 << table->bits) - 1;
    START(0); START(1); START(2); START(3); START(4); START(5); START(6); START(7);
    size_t rows = count / MLC_LANES;
    while (rows >= per_refill) {
#define STEP(j)                                                                                    \
        SYMBOL(j, dst[j]);                                                                         \
        SYMBOL(j, dst[8 + j]);                                                                     \
        SYMBOL(j, dst[16 + j]);                                                                    \
        SYMBOL(j, dst[24 + j]);                                                                    \
        if (per_refill == 5) SYMBOL(j, dst[32 + j]);                                               \
        REFILL(j);
        EACH(STEP)
#undef STEP
        dst += MLC_LANES * per_refill;
        rows -= per_refill;
    }
    while (rows--) {
#define STEP(j)                                                                                    \
        SYMBOL(j, dst[j]);                                                                         \
        REFILL(j);
        EACH(STEP)
#undef STEP
        dst += MLC_LANES;
    }
    size_t rest = count % MLC_LANES;
#define STEP(j) if (j < rest) SYMBOL(j, dst[j]);
    EACH(STEP)
#undef STEP
    unsigned bad = 0;
    EACH(ENDED)
    return bad ? MLC_LANE_END : MLC_OK;
}

/* Lane j holds the symbols from j * (count / 8) on; the last lane also the rest. */
MLC_INLINE mlc_error contiguous_lanes(const mlc_table *table, const uint8_t *const *lane,
                                      const uint32_t *size, uint8_t *dst, size_t count)
{
    const uint16_t *entries = table->entries;
    const uint64_t mask = ((uint64_t)1 << table->bits) - 1;
    START(0); START(1); START(2); START(3); START(4); START(5); START(6); START(7);
    size_t run = count / MLC_LANES, at = 0;
    for (; at + 4 <= run; at += 4) {
#define STEP(j)                                                                                    \
        SYMBOL(j, dst[j * run + at]);                                                              \
        SYMBOL(j, dst[j * run + at + 1]);                                                          \
        SYMBOL(j, dst[j * run + at + 2]);                                                          \
        SYMBOL(j, dst[j * run + at + 3]);                                                          \
        REFILL(j);
        EACH(STEP)
#undef STEP
    }
    for (; at < run; at++) {
#define STEP(j)                                                                                    \
        SYMBOL(j, dst[j * run + at]);                                                              \
        REFILL(j);
        EACH(STEP)
#undef STEP
    }
    for (at = run * MLC_LANES; at < count; at++) {
        SYMBOL(7, dst[at]);
        REFILL(7);
    }
    unsigned bad = 0;
    EACH(ENDED)
    return bad ? MLC_LANE_END : MLC_OK;
}

MLC_INLINE mlc_error any_group(const mlc_table *table, const uint8_t *const *lane,
                               const uint32_t *size, uint8_t *dst, size_t count, int contiguous)
{
    if (contiguous) return contiguous_lanes(table, lane, size, dst, count);
    if (table->bits <= 11) return interleaved(table, lane, size, dst, count, 5);
    return interleaved(table, lane, size, dst, count, 4);
}

static mlc_error group_plain(const mlc_table *table, const uint8_t *const *lane,
                             const uint32_t *size, uint8_t *dst, size_t count, int contiguous)
{
    return any_group(table, lane, size, dst, count, contiguous);
}

MLC_TARGET("bmi,bmi2,lzcnt")
static mlc_error group_bmi2(const mlc_table *table, const uint8_t *const *lane,
                            const uint32_t *size, uint8_t *dst, size_t count, int contiguous)
{
    return any_group(table, lane, size, dst, count, contiguous);
}

mlc_error mlc_decode_group(const mlc_table *table, const uint8_t *const *lane,
                           const uint32_t *size, uint8_t *dst, size_t count, int contiguous)
{
    return mlc_has_bmi2 ? group_bmi2(table, lane, size, dst, count, contiguous)
                        : group_plain(table, lane, size, dst, count, contiguous);
}

mlc_error mlc_decode_lane(const mlc_table *table, const uint8_t *first, size_t length,
                          uint8_t *dst, size_t count)
{
    const uint16_t *entries = table->entries;
    const uint64_t mask = ((uint64_t)1 << table->bits) - 1;
    const uint8_t *lane[1] = {first};
    const size_t size[1] = {length};
    START(0);
    for (size_t at = 0; at < count; at++) {
        SYMBOL(0, dst[at]);
        if ((at & 3) == 3) REFILL(0);
    }
    unsigned bad = 0;
    ENDED(0)
    return bad ? MLC_LANE_END : MLC_OK;
}
