/* The writing half: histograms, code lengths, lanes, and the splits of docs/format.md, section 4. */
#include "bits.h"
#include "lanes.h"

void mlc_histogram(const uint8_t *data, size_t count, size_t stride, uint64_t *counts)
{
    /* four tables, so that equal neighbours do not wait for each other */
    uint32_t part[4][256];
    memset(counts, 0, 256 * sizeof *counts);
    while (count) {
        size_t now = count < 1u << 30 ? count : 1u << 30, i = 0;
        memset(part, 0, sizeof part);
        if (stride == 1) {
            for (; i + 8 <= now; i += 8) {
                uint64_t x = mlc_load64(data + i);
                part[0][x & 255]++;
                part[1][x >> 8 & 255]++;
                part[2][x >> 16 & 255]++;
                part[3][x >> 24 & 255]++;
                part[0][x >> 32 & 255]++;
                part[1][x >> 40 & 255]++;
                part[2][x >> 48 & 255]++;
                part[3][x >> 56]++;
            }
        }
        for (; i < now; i++) part[i & 3][data[i * stride]]++;
        for (unsigned s = 0; s < 256; s++)
            counts[s] += (uint64_t)part[0][s] + part[1][s] + part[2][s] + part[3][s];
        data += now * stride;
        count -= now;
    }
}

void mlc_row_histograms(const uint8_t *data, size_t rows, size_t row, uint32_t *counts)
{
    uint32_t other[2][256];
    for (; rows; rows--, counts += 256, data += row) {
        size_t i = 0;
        memset(counts, 0, 256 * sizeof *counts);
        memset(other, 0, sizeof other);
        for (; i + 3 <= row; i += 3) {
            counts[data[i]]++;
            other[0][data[i + 1]]++;
            other[1][data[i + 2]]++;
        }
        for (; i < row; i++) counts[data[i]]++;
        for (unsigned s = 0; s < 256; s++) counts[s] += other[0][s] + other[1][s];
    }
}

/* Plain Huffman with two queues (van Leeuwen, 1976): weight[0..size) ascends; depth of each leaf.
 * Of equal weights, leaves come before packages. Returns the largest depth. */
static unsigned two_queues(const uint64_t *weight, unsigned size, uint8_t *depth)
{
    uint64_t inner[256];
    uint16_t parent[512];
    uint8_t level[512];
    unsigned leaf = 0, package = 0, deepest = 0;
    for (unsigned made = 0; made + 1 < size; made++) {
        uint64_t sum = 0;
        for (unsigned two = 0; two < 2; two++) {
            if (leaf < size && (package == made || weight[leaf] <= inner[package])) {
                sum += weight[leaf];
                parent[leaf++] = (uint16_t)(size + made);
            } else {
                sum += inner[package];
                parent[size + package++] = (uint16_t)(size + made);
            }
        }
        inner[made] = sum;
    }
    level[2 * size - 2] = 0;
    for (unsigned n = 2 * size - 2; n-- > 0;) level[n] = (uint8_t)(level[parent[n]] + 1);
    for (unsigned n = 0; n < size; n++) {
        depth[n] = level[n];
        if (level[n] > deepest) deepest = level[n];
    }
    return deepest;
}

/* Package-merge (Larmore and Hirschberg, 1990): depths of at most limit. */
static void package_merge(const uint64_t *weight, unsigned size, unsigned limit, uint8_t *depth)
{
    uint8_t is_leaf[16][512];
    uint64_t row[512], next[512];
    unsigned length[16];
    for (unsigned i = 0; i < size; i++) {
        row[i] = weight[i];
        is_leaf[0][i] = 1;
    }
    length[0] = size;
    for (unsigned l = 1; l < limit; l++) {
        unsigned leaf = 0, pair = 0, out = 0, pairs = length[l - 1] / 2;
        while (leaf < size || pair < pairs) {
            uint64_t sum = pair < pairs ? row[2 * pair] + row[2 * pair + 1] : 0;
            if (leaf < size && (pair == pairs || weight[leaf] <= sum)) {
                next[out] = weight[leaf++];
                is_leaf[l][out++] = 1;
            } else {
                next[out] = sum;
                is_leaf[l][out++] = 0;
                pair++;
            }
        }
        length[l] = out;
        memcpy(row, next, out * sizeof *row);
    }
    memset(depth, 0, size);
    unsigned take = 2 * size - 2;
    for (unsigned l = limit; l-- > 0;) {
        unsigned leaves = 0;
        for (unsigned i = 0; i < take; i++) leaves += is_leaf[l][i];
        for (unsigned i = 0; i < leaves; i++) depth[i]++;
        take = 2 * (take - leaves);
    }
}

mlc_error mlc_code_lengths(const uint64_t *counts, unsigned limit, uint8_t *lengths)
{
    uint16_t symbol[256];
    uint64_t weight[256];
    uint8_t depth[256];
    unsigned size = 0;
    if (limit < 8 || limit > 15) return MLC_ARGUMENT;
    for (unsigned s = 0; s < 256; s++)
        if (counts[s]) {
            unsigned at = size++;
            while (at && weight[at - 1] > counts[s]) {
                weight[at] = weight[at - 1];
                symbol[at] = symbol[at - 1];
                at--;
            }
            weight[at] = counts[s];
            symbol[at] = (uint16_t)s;
        }
    if (size < 2) return MLC_ARGUMENT;
    if (two_queues(weight, size, depth) > limit) package_merge(weight, size, limit, depth);
    memset(lengths, 0, 256);
    for (unsigned i = 0; i < size; i++) lengths[symbol[i]] = depth[i];
    return MLC_OK;
}

size_t mlc_write_lengths(const uint8_t *lengths, uint8_t *out)
{
    unsigned low = 0, high = 255, last = 6, have = 0;
    uint64_t bits = 0;
    uint8_t *at = out;
    while (!lengths[low]) low++;
    while (!lengths[high]) high--;
    *at++ = (uint8_t)low;
    *at++ = (uint8_t)high;
    for (unsigned s = low; s <= high;) {
        unsigned length = lengths[s], token = 0, size = 1;
        if (length == 0) {
            unsigned run = 1;
            while (run < 16 && lengths[s + run] == 0) run++;
            token = 3 | (run - 1) << 3;
            size = 7;
            s += run;
        } else {
            if (length + 1 == last || length == last + 1) {
                token = 1 | (length < last) << 2;
                size = 3;
            } else if (length != last) {
                token = 7 | length << 3;
                size = 7;
            }
            last = length;
            s++;
        }
        bits |= (uint64_t)token << have;
        for (have += size; have >= 8; have -= 8, bits >>= 8) *at++ = (uint8_t)bits;
    }
    if (have) *at++ = (uint8_t)bits;
    return (size_t)(at - out);
}

void mlc_pair_histogram(const uint8_t *symbols, size_t count, uint32_t *counts)
{
    unsigned before = 0;
    memset(counts, 0, 65536 * sizeof *counts);
    for (size_t i = 0; i < count; i++) {
        counts[before << 8 | symbols[i]]++;
        before = symbols[i];
    }
}

void mlc_pack(const uint8_t *symbols, size_t count, unsigned per_byte, uint8_t *out)
{
    unsigned bits = 8 / per_byte;
    size_t whole = count / per_byte, i = 0;
    if (per_byte == 2)
        for (; i < whole; i++) out[i] = (uint8_t)(symbols[2 * i] | symbols[2 * i + 1] << 4);
    for (; i * per_byte < count; i++) {
        unsigned byte = 0;
        for (unsigned j = 0; j < per_byte && i * per_byte + j < count; j++)
            byte |= (unsigned)symbols[i * per_byte + j] << j * bits;
        out[i] = (uint8_t)byte;
    }
}

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
            uint8_t *start = at;
            if ((size_t)(end - at) < slack) return MLC_WORKSPACE;
            write_four(code, contiguous ? 1 : MLC_LANES, four);
            for (unsigned j = 0; j < 4; j++) {
                size_t size = (size_t)(four[j].to - (start + j * bound));
                memmove(at, start + j * bound, size);
                at += size;
                *lane_bytes++ = (uint32_t)size;
            }
        }
        symbols += group;
        count -= group;
    }
    *out_size = (size_t)(at - out);
    return MLC_OK;
}

mlc_error mlc_encode_context(const uint8_t *symbols, size_t count, const uint8_t *lengths,
                             const uint8_t *classes, size_t per_lane, uint8_t *out,
                             size_t *out_size, uint32_t *lane_bytes)
{
    const size_t slack = mlc_encode_slack(count, per_lane);
    uint32_t code[MLC_CLASSES][256];
    uint8_t *at = out, *end = out + *out_size;
    for (unsigned c = 0; c < MLC_CLASSES; c++) {
        uint16_t codes[256];
        for (unsigned s = 0; s < 256; s++)
            if (lengths[c * 256 + s] > MLC_CONTEXT_LENGTH) return MLC_ARGUMENT;
        mlc_codes(lengths + c * 256, codes);
        for (unsigned s = 0; s < 256; s++)
            code[c][s] = (uint32_t)codes[s] << 4 | lengths[c * 256 + s];
    }
    for (unsigned s = 0; s < 256; s++)
        if (classes[s] >= MLC_CLASSES) return MLC_ARGUMENT;
    while (count) {
        size_t group = MLC_LANES * per_lane < count ? MLC_LANES * per_lane : count;
        for (unsigned j = 0; j < MLC_LANES; j++) {
            uint8_t *start = at;
            if ((size_t)(end - at) < slack) return MLC_WORKSPACE;
            uint64_t bits = 0;
            unsigned have = 0, class = classes[0];
            size_t mine = group / MLC_LANES + (j == MLC_LANES - 1 ? group % MLC_LANES : 0);
            while (mine--) {
                uint32_t c = code[class][*symbols];
                class = classes[*symbols++];
                bits |= (uint64_t)(c >> 4) << have;
                have += c & 15;
                if (have >= 32) {
                    mlc_store64(at, bits);
                    at += 4;
                    bits >>= 32;
                    have -= 32;
                }
            }
            mlc_store64(at, bits);
            at += (have + 7) / 8;
            *lane_bytes++ = (uint32_t)(at - start);
        }
        count -= group;
    }
    *out_size = (size_t)(at - out);
    return MLC_OK;
}

/* Sorts values[0..count) and says where each went: rank[old place] = new place. */
static void sort_values(uint64_t *values, size_t count, uint16_t *rank, uint16_t *place)
{
    for (size_t i = 0; i < count; i++) place[i] = (uint16_t)i;
    for (size_t gap = count / 2; gap; gap = gap == 2 ? 1 : gap * 5 / 11) {
        for (size_t i = gap; i < count; i++) {
            uint64_t value = values[i];
            uint16_t from = place[i];
            size_t at = i;
            for (; at >= gap && values[at - gap] > value; at -= gap) {
                values[at] = values[at - gap];
                place[at] = place[at - gap];
            }
            values[at] = value;
            place[at] = from;
        }
    }
    for (size_t i = 0; i < count; i++) rank[place[i]] = (uint16_t)i;
}

MLC_INLINE size_t distinct_of(const uint8_t *items, size_t count, unsigned width, size_t most,
                              uint64_t *values, uint16_t *indices, uint64_t *counts,
                              uint16_t *slot)
{
    enum { SLOTS = 16384 }; /* index + 1, 0 empty; at most a quarter full */
    size_t found = 0;
    memset(slot, 0, SLOTS * sizeof *slot);
    for (size_t i = 0; i < count; i++) {
        uint64_t item = mlc_load_item(items + i * width, width);
        size_t at = (item * 0x9E3779B97F4A7C15u) >> 50;
        while (slot[at] && values[slot[at] - 1] != item) at = (at + 1) % SLOTS;
        if (!slot[at]) {
            if (found == most) return most + 1;
            values[found++] = item;
            slot[at] = (uint16_t)found;
        }
        indices[i] = (uint16_t)(slot[at] - 1);
    }
    uint16_t *rank = slot, *place = slot + 4096;
    sort_values(values, found, rank, place);
    memset(counts, 0, found * sizeof *counts);
    for (size_t i = 0; i < count; i++) {
        uint16_t index = rank[indices[i]];
        indices[i] = index;
        counts[index]++;
    }
    return found;
}

/* Items of two bytes: count all 65,536, then rank those that occur. */
static size_t distinct_of_pairs(const uint8_t *items, size_t count, size_t most, uint64_t *values,
                                uint16_t *indices, uint64_t *counts, uint32_t *table)
{
    size_t found = 0;
    memset(table, 0, 65536 * sizeof *table);
    for (size_t i = 0; i < count; i++) {
        unsigned item = items[2 * i] | (unsigned)items[2 * i + 1] << 8;
        if (!table[item]++ && ++found > most) return most + 1;
        if (table[item] == UINT32_MAX) table[item]--; /* more than 2^32: the estimate suffers */
    }
    found = 0;
    for (unsigned item = 0; item < 65536; item++)
        if (table[item]) {
            values[found] = item;
            counts[found] = table[item];
            table[item] = (uint32_t)found++;
        }
    for (size_t i = 0; i < count; i++)
        indices[i] = (uint16_t)table[items[2 * i] | (unsigned)items[2 * i + 1] << 8];
    return found;
}

size_t mlc_distinct(const uint8_t *items, size_t count, unsigned width, size_t most,
                    uint64_t *values, uint16_t *indices, uint64_t *counts, void *work)
{
    switch (width) {
    case 1: return distinct_of(items, count, 1, most, values, indices, counts, work);
    case 2: return distinct_of_pairs(items, count, most, values, indices, counts, work);
    case 4: return distinct_of(items, count, 4, most, values, indices, counts, work);
    default: return distinct_of(items, count, 8, most, values, indices, counts, work);
    }
}

void mlc_divide(const uint16_t *indices, size_t count, uint8_t *high, uint8_t *low, size_t *at)
{
    for (size_t i = 0; i < count; i++) {
        unsigned part = indices[i] >> 8 & 15;
        high[i] = (uint8_t)part;
        low[at[part]++] = (uint8_t)indices[i];
    }
}

MLC_INLINE uint8_t *put_gap(uint8_t *gap, size_t step)
{
    while (step >= 255) {
        *gap++ = 255;
        step -= 255;
    }
    *gap++ = (uint8_t)step;
    return gap;
}

/* Eight bytes at a time: most are the background. */
static void gaps_of_bytes(const uint8_t *items, size_t count, uint8_t background, uint8_t *gaps,
                          size_t *gap_count, uint8_t *values, size_t *value_count)
{
    const uint64_t low = 0x7F7F7F7F7F7F7F7Fu, all = background * 0x0101010101010101u;
    uint8_t *gap = gaps, *value = values;
    size_t last = 0, i = 0;
    for (; i + 8 <= count; i += 8) {
        uint64_t differ = mlc_load64(items + i) ^ all;
        /* the top bit of each byte that is not 0 */
        for (differ = (((differ & low) + low) | differ) & ~low; differ; differ &= differ - 1) {
            size_t at = i + MLC_CTZ64(differ) / 8;
            gap = put_gap(gap, at - last);
            *value++ = items[at];
            last = at + 1;
        }
    }
    for (; i < count; i++) {
        if (items[i] == background) continue;
        gap = put_gap(gap, i - last);
        *value++ = items[i];
        last = i + 1;
    }
    *gap_count = (size_t)(gap - gaps);
    *value_count = (size_t)(value - values);
}

MLC_INLINE void gaps_of(const uint8_t *items, size_t count, unsigned width, uint64_t background,
                        uint8_t *gaps, size_t *gap_count, uint8_t *values, size_t *value_count)
{
    uint8_t *gap = gaps, *value = values;
    size_t last = 0;
    for (size_t i = 0; i < count; i++) {
        if (mlc_load_item(items + i * width, width) == background) continue;
        gap = put_gap(gap, i - last);
        memcpy(value, items + i * width, width);
        value += width;
        last = i + 1;
    }
    *gap_count = (size_t)(gap - gaps);
    *value_count = (size_t)(value - values) / width;
}

void mlc_gaps(const uint8_t *items, size_t count, unsigned width, uint64_t background,
              uint8_t *gaps, size_t *gap_count, uint8_t *values, size_t *value_count)
{
    switch (width) {
    case 1:
        gaps_of_bytes(items, count, (uint8_t)background, gaps, gap_count, values, value_count);
        break;
    case 2: gaps_of(items, count, 2, background, gaps, gap_count, values, value_count); break;
    case 4: gaps_of(items, count, 4, background, gaps, gap_count, values, value_count); break;
    default: gaps_of(items, count, 8, background, gaps, gap_count, values, value_count); break;
    }
}

MLC_INLINE void split_of(const uint8_t *items, size_t count, unsigned width, int rotate,
                         uint8_t *planes)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t x = mlc_load_item(items + i * width, width);
        if (rotate) x = x << 1 | x >> (8 * width - 1);
        for (unsigned b = 0; b < width; b++) planes[b * count + i] = (uint8_t)(x >> 8 * b);
    }
}

void mlc_split(const uint8_t *items, size_t count, unsigned width, int rotate, uint8_t *planes)
{
    switch (width) {
    case 2: split_of(items, count, 2, rotate, planes); break;
    case 4: split_of(items, count, 4, rotate, planes); break;
    default: split_of(items, count, 8, rotate, planes); break;
    }
}
