/* Groups rows of bytes by their histograms (docs/format.md, section 4, kind 7). Whole numbers only:
 * clusters.py computes the same. */
#include "bits.h"
#include "huffman.h"

#define CLUSTERS 4
#define ROUNDS 3
#define MOST_ROWS 256
#define MOST_SYMBOLS 1024u

/* 16 log2(x), x > 0: of the fraction, the first eight bits count */
static unsigned log16(uint64_t x)
{
    static const uint8_t steps[16] = {6,  18, 30,  42,  56,  69,  84,  99,
                                      114, 131, 148, 166, 184, 204, 224, 246};
    unsigned exponent = 63 - MLC_CLZ64(x), part = 0;
    unsigned fraction = (unsigned)((exponent > 8 ? x >> (exponent - 8) : x << (8 - exponent)) & 255);
    while (part < 16 && steps[part] <= fraction) part++;
    return 16 * exponent + part;
}

/* Sixteenths of a bit for each symbol in each cluster, four numbers of 16 bits in one of 64. */
static void costs_of(const uint32_t *sums, uint64_t *costs)
{
    memset(costs, 0, 256 * sizeof *costs);
    for (unsigned c = 0; c < CLUSTERS; c++, sums += 256) {
        uint64_t total = 0;
        for (unsigned s = 0; s < 256; s++) total += sums[s];
        unsigned all = log16(4 * total + 256);
        for (unsigned s = 0; s < 256; s++) {
            unsigned cost = all - log16(4 * (uint64_t)sums[s] + 1);
            costs[s] |= (uint64_t)(cost < 255 ? cost : 255) << 16 * c;
        }
    }
}

static unsigned cheapest(const uint64_t *costs, const uint8_t *row, size_t size)
{
    uint64_t sum[CLUSTERS] = {0};
    while (size) {
        size_t now = size < 256 ? size : 256, i = 0;
        uint64_t even = 0, odd = 0; /* 256 times 255 fits into 16 bits */
        for (; i + 2 <= now; i += 2) {
            even += costs[row[i]];
            odd += costs[row[i + 1]];
        }
        if (i < now) even += costs[row[i]];
        even += odd;
        for (unsigned c = 0; c < CLUSTERS; c++) sum[c] += even >> 16 * c & 0xFFFF;
        row += now;
        size -= now;
    }
    unsigned best = 0;
    for (unsigned c = 1; c < CLUSTERS; c++)
        if (sum[c] < sum[best]) best = c;
    return best;
}

/* Counts a row in four tables, one behind the other, so that equal neighbours do not wait for each
 * other. */
MLC_INLINE void add_row(uint32_t *counts, const uint8_t *row, size_t size)
{
    size_t i = 0;
    for (; i + 4 <= size; i += 4) {
        counts[row[i]]++;
        counts[row[i + 1] + 256]++;
        counts[row[i + 2] + 512]++;
        counts[row[i + 3] + 768]++;
    }
    for (; i < size; i++) counts[row[i]]++;
}

#define SUM(counts, s) (counts[s] + counts[(s) + 256] + counts[(s) + 512] + counts[(s) + 768])

static uint32_t most_frequent(const uint8_t *row, size_t size)
{
    uint32_t counts[4 * 256] = {0}, most = 0;
    add_row(counts, row, size);
    for (unsigned s = 0; s < 256; s++) {
        uint32_t here = SUM(counts, s);
        most = here > most ? here : most;
    }
    return most;
}

void mlc_train_rows(const uint8_t *data, size_t rows, size_t row, size_t step, uint64_t *costs)
{
    uint32_t counts[CLUSTERS * 4 * 256], sums[CLUSTERS * 256], peak[MOST_ROWS];
    uint8_t group[MOST_ROWS];
    uint16_t order[MOST_ROWS];
    size_t many = (rows + step - 1) / step, seen = row < MOST_SYMBOLS ? row : MOST_SYMBOLS;
    for (size_t r = 0; r < many; r++) {
        /* a first guess: by the share of the most frequent symbol */
        uint32_t most = most_frequent(data + r * step * row, seen);
        size_t at = r;
        for (; at && peak[at - 1] > most; at--) {
            peak[at] = peak[at - 1];
            order[at] = order[at - 1];
        }
        peak[at] = most;
        order[at] = (uint16_t)r;
    }
    for (size_t place = 0; place < many; place++)
        group[order[place]] = (uint8_t)(place * CLUSTERS / many);
    for (unsigned round = 0;; round++) {
        memset(counts, 0, sizeof counts);
        for (size_t r = 0; r < many; r++)
            add_row(counts + 1024 * group[r], data + r * step * row, seen);
        for (unsigned c = 0; c < CLUSTERS; c++)
            for (unsigned s = 0; s < 256; s++) sums[256 * c + s] = SUM(counts, 1024 * c + s);
        costs_of(sums, costs);
        if (round == ROUNDS) return;
        for (size_t r = 0; r < many; r++)
            group[r] = (uint8_t)cheapest(costs, data + r * step * row, seen);
    }
}

void mlc_assign_rows(const uint8_t *data, size_t rows, size_t row, size_t step,
                     const uint64_t *costs, uint8_t *clusters, uint64_t *sums)
{
    memset(sums, 0, CLUSTERS * 256 * sizeof *sums);
    while (rows) {
        /* few enough for counts of 32 bits */
        size_t now = ((size_t)1 << 31) / row + 1;
        uint32_t counts[CLUSTERS * 4 * 256] = {0};
        for (; rows && now; now--) {
            unsigned c = cheapest(costs, data, row);
            *clusters++ = (uint8_t)c;
            add_row(counts + 1024 * c, data, row);
            data += (rows > step ? step : 0) * row;
            rows -= rows > step ? step : rows;
        }
        for (unsigned c = 0; c < CLUSTERS; c++)
            for (unsigned s = 0; s < 256; s++) sums[256 * c + s] += SUM(counts, 1024 * c + s);
    }
}
