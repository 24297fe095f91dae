/* Writes Huffman lanes (docs/format.md, sections 5 and 6). */
#include "bits.h"
#include "lanes.h"

/* The most bytes of a lane of count symbols, with the slack that write_four() needs. */
MLC_INLINE size_t lane_bound(size_t count)
{
    return count / 2 * 3 + 16;
}

size_t mlc_encode_slack(size_t count, size_t per_lane)
{
    return (per_lane ? 4 : 1) * lane_bound((per_lane ? per_lane : count) + MLC_LANES);
}

typedef struct {
    const uint8_t *from;
    uint8_t *to;
    size_t count;
} lane_work;

#define PUT(j, i)                                                                                  \
    do {                                                                                           \
        uint32_t c = code[from##j[(i) * step]];                                                    \
        bits##j |= (uint64_t)(c >> 4) << have##j;                                                  \
        have##j += c & 15;                                                                         \
    } while (0)
#define FLUSH(j)                                                                                   \
    do {                                                                                           \
        mlc_store64(to##j, bits##j);                                                               \
        to##j += have##j >> 3;                                                                     \
        bits##j >>= have##j & 56;                                                                  \
        have##j &= 7;                                                                              \
    } while (0)
#define FOUR_LANES(X) X(0) X(1) X(2) X(3)

/* Codes of four lanes at once, so that they do not wait for each other; a symbol of a lane is
 * `step` behind the one before. Makes each `to` point to the end of what was written. */
static void write_four(const uint32_t *code, size_t step, lane_work *lane)
{
    size_t least = lane[0].count;
    for (unsigned j = 1; j < 4; j++) least = lane[j].count < least ? lane[j].count : least;
#define START(j)                                                                                   \
    const uint8_t *from##j = lane[j].from;                                                         \
    uint8_t *to##j = lane[j].to;                                                                   \
    uint64_t bits##j = 0;                                                                          \
    unsigned have##j = 0;
    FOUR_LANES(START)
#undef START
    size_t i = 0;
    for (; i + 4 <= least; i += 4) {
#define STEP(j)                                                                                    \
    PUT(j, i);                                                                                     \
    PUT(j, i + 1);                                                                                 \
    PUT(j, i + 2);                                                                                 \
    PUT(j, i + 3);                                                                                 \
    FLUSH(j);
        FOUR_LANES(STEP)
#undef STEP
    }
#define FINISH(j)                                                                                  \
    for (size_t k = i; k < lane[j].count; k++) {                                                   \
        PUT(j, k);                                                                                 \
        FLUSH(j);                                                                                  \
    }                                                                                              \
    lane[j].to = to##j + (have##j > 0);
    FOUR_LANES(FINISH)
#undef FINISH
}

/* Moves four lanes, `bound` bytes apart from `at` on, together; returns where they end. */
static uint8_t *close_lanes(const lane_work *lane, uint8_t *at, size_t bound, uint32_t *lane_bytes)
{
    uint8_t *start = at;
    for (unsigned j = 0; j < 4; j++) {
        size_t size = (size_t)(lane[j].to - (start + j * bound));
        memmove(at, start + j * bound, size);
        at += size;
        lane_bytes[j] = (uint32_t)size;
    }
    return at;
}

mlc_error mlc_encode(const uint8_t *symbols, size_t count, const uint8_t *lengths,
                     size_t per_lane, int contiguous, uint8_t *out, size_t *out_size,
                     uint32_t *lane_bytes)
{
    const size_t slack = mlc_encode_slack(count, per_lane);
    const uint8_t *end = out + *out_size;
    if (*out_size < slack) return MLC_WORKSPACE;
    uint16_t codes[256];
    uint32_t code[256];
    uint8_t *at = out;
    for (unsigned s = 0; s < 256; s++)
        if (lengths[s] > MLC_MAX_LENGTH) return MLC_ARGUMENT;
    mlc_codes(lengths, codes);
    for (unsigned s = 0; s < 256; s++) code[s] = (uint32_t)codes[s] << 4 | lengths[s];
    if (per_lane == 0) {
        uint8_t unused[3][16];
        lane_work one[4] = {{symbols, out, count}, {symbols, unused[0], 0},
                            {symbols, unused[1], 0}, {symbols, unused[2], 0}};
        write_four(code, 1, one);
        at = one[0].to;
        *lane_bytes = (uint32_t)(at - out);
    }
    while (per_lane && count) {
        size_t group = MLC_LANES * per_lane < count ? MLC_LANES * per_lane : count;
        size_t run = group / MLC_LANES, rest = group % MLC_LANES;
        size_t bound = lane_bound(run + (contiguous ? rest : 1));
        for (unsigned half = 0; half < MLC_LANES; half += 4) {
            lane_work four[4];
            for (unsigned j = 0; j < 4; j++) {
                unsigned lane = half + j;
                four[j].from = symbols + (contiguous ? lane * run : lane);
                four[j].to = at + j * bound;
                four[j].count = run + (contiguous ? (lane == 7 ? rest : 0) : lane < rest);
            }
            if ((size_t)(end - at) < slack) return MLC_WORKSPACE;
            write_four(code, contiguous ? 1 : MLC_LANES, four);
            at = close_lanes(four, at, bound, lane_bytes);
            lane_bytes += 4;
        }
        symbols += group;
        count -= group;
    }
    *out_size = (size_t)(at - out);
    return MLC_OK;
}

#define PUT_CLASSED(j)                                                                             \
    do {                                                                                           \
        unsigned symbol = *from##j++;                                                              \
        uint32_t c = code[class##j | symbol];                                                      \
        class##j = next[symbol];                                                                   \
        bits##j |= (uint64_t)(c >> 4) << have##j;                                                  \
        have##j += c & 15;                                                                         \
    } while (0);

/* As write_four(), with a code per class, code[class << 8 | symbol], and next[symbol] the class
 * after it, shifted likewise. */
static void write_four_classed(const uint32_t *code, const uint16_t *next, lane_work *lane)
{
    size_t least = lane[0].count;
    for (unsigned j = 1; j < 4; j++) least = lane[j].count < least ? lane[j].count : least;
#define START(j)                                                                                   \
    const uint8_t *from##j = lane[j].from;                                                         \
    uint8_t *to##j = lane[j].to;                                                                   \
    uint64_t bits##j = 0;                                                                          \
    unsigned have##j = 0, class##j = next[0];
    FOUR_LANES(START)
#undef START
    size_t i = 0;
    for (; i + 4 <= least; i += 4) {
        FOUR_LANES(PUT_CLASSED)
        FOUR_LANES(PUT_CLASSED)
        FOUR_LANES(PUT_CLASSED)
        FOUR_LANES(PUT_CLASSED)
#define STEP(j) FLUSH(j);
        FOUR_LANES(STEP)
#undef STEP
    }
#define FINISH(j)                                                                                  \
    for (size_t k = i; k < lane[j].count; k++) {                                                   \
        PUT_CLASSED(j)                                                                             \
        FLUSH(j);                                                                                  \
    }                                                                                              \
    lane[j].to = to##j + (have##j > 0);
    FOUR_LANES(FINISH)
#undef FINISH
}

mlc_error mlc_encode_context(const uint8_t *symbols, size_t count, const uint8_t *lengths,
                             const uint8_t *classes, size_t per_lane, uint8_t *out,
                             size_t *out_size, uint32_t *lane_bytes)
{
    const size_t slack = mlc_encode_slack(count, per_lane);
    uint32_t code[MLC_CLASSES * 256];
    uint16_t next[256];
    uint8_t *at = out, *end = out + *out_size;
    for (unsigned c = 0; c < MLC_CLASSES; c++) {
        uint16_t codes[256];
        for (unsigned s = 0; s < 256; s++)
            if (lengths[c * 256 + s] > MLC_CONTEXT_LENGTH) return MLC_ARGUMENT;
        mlc_codes(lengths + c * 256, codes);
        for (unsigned s = 0; s < 256; s++)
            code[c * 256 + s] = (uint32_t)codes[s] << 4 | lengths[c * 256 + s];
    }
    for (unsigned s = 0; s < 256; s++) {
        if (classes[s] >= MLC_CLASSES) return MLC_ARGUMENT;
        next[s] = (uint16_t)(classes[s] << 8);
    }
    while (count) {
        size_t group = MLC_LANES * per_lane < count ? MLC_LANES * per_lane : count;
        size_t run = group / MLC_LANES, rest = group % MLC_LANES;
        for (unsigned half = 0; half < MLC_LANES; half += 4) {
            lane_work four[4];
            for (unsigned j = 0; j < 4; j++) {
                four[j].from = symbols + (half + j) * run;
                four[j].to = at + j * lane_bound(run + rest);
                four[j].count = run + (half + j == MLC_LANES - 1 ? rest : 0);
            }
            if ((size_t)(end - at) < slack) return MLC_WORKSPACE;
            write_four_classed(code, next, four);
            at = close_lanes(four, at, lane_bound(run + rest), lane_bytes);
            lane_bytes += 4;
        }
        symbols += group;
        count -= group;
    }
    *out_size = (size_t)(at - out);
    return MLC_OK;
}
