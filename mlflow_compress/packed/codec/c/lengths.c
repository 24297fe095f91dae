/* Code lengths, and how a payload stores them (docs/format.md, section 5). */
#include "bits.h"
#include "lanes.h"

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
    uint64_t key[256], weight[256];
    uint8_t depth[256];
    unsigned size = 0;
    if (limit < 8 || limit > 15) return MLC_ARGUMENT;
    for (unsigned s = 0; s < 256; s++)
        if (counts[s]) {
            if (counts[s] >> 48) return MLC_ARGUMENT;
            key[size++] = counts[s] << 8 | s;
        }
    if (size < 2) return MLC_ARGUMENT;
    /* by count, then by symbol */
    for (unsigned gap = 109; gap; gap = gap == 2 ? 1 : gap * 5 / 11)
        for (unsigned i = gap; i < size; i++) {
            uint64_t here = key[i];
            unsigned at = i;
            for (; at >= gap && key[at - gap] > here; at -= gap) key[at] = key[at - gap];
            key[at] = here;
        }
    for (unsigned i = 0; i < size; i++) weight[i] = key[i] >> 8;
    if (two_queues(weight, size, depth) > limit) package_merge(weight, size, limit, depth);
    memset(lengths, 0, 256);
    for (unsigned i = 0; i < size; i++) lengths[key[i] & 255] = depth[i];
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
