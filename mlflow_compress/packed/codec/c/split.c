/* Histograms, and the splits of docs/format.md, section 4: codebooks, gaps, planes. */
#include "bits.h"
#include "lanes.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

void mlc_histogram(const uint8_t *data, size_t count, size_t stride, uint64_t *counts)
{
    /* eight tables, so that equal neighbours do not wait for each other */
    uint32_t part[8][256];
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
                part[4][x >> 32 & 255]++;
                part[5][x >> 40 & 255]++;
                part[6][x >> 48 & 255]++;
                part[7][x >> 56]++;
            }
        }
        for (; i < now; i++) part[i & 7][data[i * stride]]++;
        for (unsigned k = 0; k < 8; k++)
            for (unsigned s = 0; s < 256; s++) counts[s] += part[k][s];
        data += now * stride;
        count -= now;
    }
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

void mlc_translate(const uint8_t *symbols, size_t count, const uint8_t *table, uint8_t *out)
{
    for (size_t i = 0; i < count; i++) out[i] = table[symbols[i]];
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

/* A bit for each of 64 bytes: whether it is not the background. */
MLC_INLINE uint64_t differing(const uint8_t *items, uint8_t background)
{
    uint64_t bits = 0;
#if defined(__SSE2__)
    const __m128i all = _mm_set1_epi8((char)background);
    for (unsigned k = 0; k < 4; k++) {
        __m128i here = _mm_loadu_si128((const __m128i *)(items + 16 * k));
        bits |= (uint64_t)(unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(here, all)) << 16 * k;
    }
    return ~bits;
#else
    const uint64_t low = 0x7F7F7F7F7F7F7F7Fu, all = background * 0x0101010101010101u;
    for (unsigned k = 0; k < 8; k++) {
        uint64_t differ = mlc_load64(items + 8 * k) ^ all;
        /* the top bit of each byte that is not 0; then these eight bits side by side */
        differ = (((differ & low) + low) | differ) & ~low;
        bits |= ((differ >> 7) * 0x0102040810204080u >> 56) << 8 * k;
    }
    return bits;
#endif
}

/* Sixty-four bytes at a time: most are the background. */
static void gaps_of_bytes(const uint8_t *items, size_t count, uint8_t background, uint8_t *gaps,
                          size_t *gap_count, uint8_t *values, size_t *value_count)
{
    uint8_t *gap = gaps, *value = values;
    size_t last = 0, i = 0;
    for (; i + 64 <= count; i += 64)
        for (uint64_t bits = differing(items + i, background); bits; bits &= bits - 1) {
            size_t at = i + MLC_CTZ64(bits);
            gap = put_gap(gap, at - last);
            *value++ = items[at];
            last = at + 1;
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
