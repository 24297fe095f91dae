/* Reads the bit strings of the portable profile (docs/format.md, section 7).
 *
 * All segments together are one bit string, most significant bit first. A segment begins inside a
 * code, at an inner node; as many bits before the segment as that node is deep lead from the root
 * to it. So a segment's first code begins that many bits early, and its codes must end exactly
 * where the next segment's first code begins. Runs of segments are read side by side into scratch
 * memory, because where a run's symbols belong is known only when those before it are read. */
#include "portable.h"
#include "bits.h"

#define LONGEST 15u
#define LANES 4
#define RUN_BYTES 2048u
#define RUN_ITEMS (RUN_BYTES * 8 + 32)
#define PER_LOAD 4u /* codes of up to 14 bits in the 57 bits that one load is good for */
#define ENTRIES ((size_t)1 << LONGEST)

/* Leaves and inner nodes of each depth; the canonical code that they are. */
typedef struct {
    unsigned leaves[LONGEST + 2], inner[LONGEST + 2], longest, codes;
} code_tree;

static unsigned bit_at(const uint8_t *bits, size_t at)
{
    return bits[at >> 3] >> (7 - (at & 7)) & 1;
}

/* bits[0..size) readable; the tree begins at bit `at` and must have `codes` leaves, 2 or more. */
static mlc_error read_tree(const uint8_t *bits, size_t size, size_t at, unsigned codes,
                           unsigned limit, code_tree *tree)
{
    size_t first = at, most = first + 2 * (size_t)codes - 2;
    unsigned inner = 1, depth = 0;
    memset(tree, 0, sizeof *tree);
    tree->inner[0] = 1;
    if (most > 8 * size) return MLC_TREE;
    while (inner) {
        unsigned children = 2 * inner, leaves = 0;
        if (children > most - at) return MLC_TREE;
        if (++depth > limit) return MLC_TREE_DEPTH;
        while (leaves < children && !bit_at(bits, at + leaves)) leaves++;
        for (unsigned i = leaves; i < children; i++)
            if (!bit_at(bits, at + i)) return MLC_TREE;
        at += children;
        inner = children - leaves;
        tree->leaves[depth] = leaves;
        tree->inner[depth] = inner;
    }
    tree->longest = depth;
    tree->codes = codes;
    return at == most ? MLC_OK : MLC_TREE;
}

/* Everything that reading a segment needs. */
typedef struct {
    const mlc_segments *from;
    uint32_t *table;      /* by the next `longest` bits: payload << 16 | emit << 8 | length */
    uint16_t *path;       /* of each inner node, the bits that lead to it */
    uint8_t *depth;       /* and how many these are */
    const uint8_t *bytes; /* the stream, or a padded copy of its last segment */
    size_t origin;        /* where in the stream `bytes` begins */
    unsigned longest;
} reader;

static unsigned start_of(const mlc_segments *from, size_t segment)
{
    const uint8_t *at = from->starts + segment * from->start_width;
    return from->start_width == 1 ? at[0] : at[0] | (unsigned)at[1] << 8;
}

/* The next 57 bits or more, the first one highest: eight bytes of the stream are read. */
MLC_INLINE uint64_t load_bits(const reader *r, uint64_t at)
{
    const uint8_t *p = r->bytes + ((size_t)(at >> 3) - r->origin);
#if defined(__GNUC__) || defined(__clang__)
    uint64_t bits = __builtin_bswap64(mlc_load64(p));
#else
    uint64_t bits = 0;
    for (unsigned i = 0; i < 8; i++) bits = bits << 8 | p[i];
#endif
    return bits << (at & 7);
}

static void fill(reader *r, const code_tree *tree)
{
    const mlc_segments *from = r->from;
    uint32_t *entry = r->table;
    unsigned rank = 0, node = 0, first = 0;
    for (unsigned depth = 0; depth <= tree->longest; depth++) {
        first = 2 * first + (depth ? 2 * tree->leaves[depth - 1] : 0);
        for (unsigned i = 0; i < tree->leaves[depth]; i++, rank++) {
            unsigned last = rank == from->codes;
            unsigned payload = last ? 0 : from->width == 1 ? from->values[rank] : rank;
            uint32_t filled = payload << 16 | (last ? 0u : 1u << 8) | depth;
            for (unsigned n = 1u << (tree->longest - depth); n; n--) *entry++ = filled;
        }
        for (unsigned i = 0; i < tree->inner[depth]; i++, node++) {
            r->path[node] = (uint16_t)(first + tree->leaves[depth] + i);
            r->depth[node] = (uint8_t)depth;
        }
    }
    r->longest = tree->longest;
}

/* A run of segments being read. Within a run codes are read on past a segment's end; whether one
 * ended there is looked at afterwards, which nothing waits for. */
typedef struct {
    uint64_t at, end;   /* in bits: the next code, and the end of this segment's codes */
    uint64_t go, before; /* below `go`, read four codes more; where the last four began */
    uint8_t *dst;
    size_t segment, stop;
} lane;

static uint64_t first_code(const reader *r, size_t segment)
{
    return (uint64_t)segment * r->from->step * 8 - r->depth[start_of(r->from, segment)];
}

/* Stores the item whether it counts or not: dst has room for one more than is due. */
MLC_INLINE uint8_t *put(const reader *r, uint32_t entry, uint8_t *dst, unsigned width)
{
    if (width == 1)
        *dst = (uint8_t)(entry >> 16);
    else
        memcpy(dst, r->from->values + (size_t)(entry >> 16) * width, width);
    return dst + (entry >> 8 & 1) * width;
}

MLC_INLINE void quick(const reader *r, const uint32_t *table, lane *l, unsigned shift,
                      unsigned width)
{
    uint64_t bits = load_bits(r, l->at), at = l->at;
    uint8_t *dst = l->dst;
    for (unsigned i = 0; i < PER_LOAD; i++) {
        uint32_t entry = table[bits >> shift];
        bits <<= entry & 63;
        at += entry & 63;
        dst = put(r, entry, dst, width);
    }
    l->before = l->at;
    l->at = at;
    l->dst = dst;
}

/* The codes up to the segment's end, one by one; one that is cut off by it is not read. */
MLC_INLINE void to_end(const reader *r, lane *l, unsigned shift, unsigned width)
{
    while (l->at < l->end) {
        uint32_t entry = r->table[load_bits(r, l->at) >> shift];
        if (l->at + (entry & 63) > l->end) return;
        l->at += entry & 63;
        l->dst = put(r, entry, l->dst, width);
    }
}

/* Sets how far the lane's segment goes; safe: bits of four codes, 0 if they do not fit a load. */
MLC_INLINE void set_end(const reader *r, lane *l, unsigned safe)
{
    l->end = first_code(r, l->segment + 1);
    l->go = !safe ? 0 : l->segment + 1 < l->stop ? l->end : l->end - safe + 1;
}

/* Whether a code ends where a lane's segment does, at the inner node that it must, and what the
 * lane has read does not go beyond its run; then the next segment begins. */
MLC_INLINE int next_segment(const reader *r, lane *l, unsigned shift, unsigned safe,
                            unsigned width)
{
    int met = 0;
    if (safe && l->segment + 1 < l->stop) {
        uint64_t bits = load_bits(r, l->before), at = l->before;
        for (unsigned i = 0; i < PER_LOAD; i++) {
            unsigned length = r->table[bits >> shift] & 63;
            bits <<= length;
            at += length;
            met |= at == l->end;
        }
    } else {
        to_end(r, l, shift, width);
        met = l->at == l->end;
    }
    unsigned node = start_of(r->from, ++l->segment);
    if (!met || load_bits(r, l->end) >> 1 >> (63 - r->depth[node]) != r->path[node]) return 0;
    if (l->segment < l->stop) set_end(r, l, safe);
    return 1;
}

/* All but the last segment of the stream: `runs` lanes, each of `per` segments from `first` on. */
MLC_INLINE mlc_error read_runs(const reader *r, lane *l, size_t runs, size_t first, size_t per,
                               uint8_t *scratch, unsigned width)
{
    const unsigned shift = 64 - r->longest;
    const unsigned safe = PER_LOAD * r->longest <= 57 ? PER_LOAD * r->longest : 0;
    const uint32_t *table = r->table;
    for (size_t j = 0; j < runs; j++) {
        size_t segment = first + j * per;
        l[j] = (lane){first_code(r, segment), 0, 0, 0, scratch + j * RUN_ITEMS * width, segment,
                      segment + per};
        set_end(r, &l[j], safe);
    }
    while (runs == LANES && safe) {
#define STEP(j)                                                                                    \
    if (l[j].at < l[j].go) {                                                                       \
        quick(r, table, &l[j], shift, width);                                                      \
    } else {                                                                                       \
        if (!next_segment(r, &l[j], shift, safe, width)) return MLC_SEGMENT;                       \
        if (l[j].segment == l[j].stop) break;                                                      \
    }
        STEP(0) STEP(1) STEP(2) STEP(3)
#undef STEP
    }
    for (size_t j = 0; j < runs; j++)
        while (l[j].segment < l[j].stop) {
            while (l[j].at < l[j].go) quick(r, table, &l[j], shift, width);
            if (!next_segment(r, &l[j], shift, safe, width)) return MLC_SEGMENT;
        }
    return MLC_OK;
}

MLC_INLINE mlc_error read_any(const reader *r, lane *l, size_t runs, size_t first, size_t per,
                              uint8_t *scratch)
{
    switch (r->from->width) {
    case 1: return read_runs(r, l, runs, first, per, scratch, 1);
    case 2: return read_runs(r, l, runs, first, per, scratch, 2);
    case 4: return read_runs(r, l, runs, first, per, scratch, 4);
    default: return read_runs(r, l, runs, first, per, scratch, 8);
    }
}

static mlc_error read_plain(const reader *r, lane *l, size_t runs, size_t first, size_t per,
                            uint8_t *scratch)
{
    return read_any(r, l, runs, first, per, scratch);
}

MLC_TARGET("bmi,bmi2,lzcnt")
static mlc_error read_bmi2(const reader *r, lane *l, size_t runs, size_t first, size_t per,
                           uint8_t *scratch)
{
    return read_any(r, l, runs, first, per, scratch);
}

static int good_width(unsigned width)
{
    return width == 1 || width == 2 || width == 4 || width == 8;
}

mlc_error mlc_portable_segments(const mlc_segments *from, uint8_t *dst, size_t count, void *work,
                                size_t work_size)
{
    if (!good_width(from->width) || !from->segments || (from->step != 64 && from->step != 128) ||
        (from->start_width != 1 && from->start_width != 2) || !from->codes ||
        from->codes > MLC_PORTABLE_SYMBOLS)
        return MLC_ARGUMENT;
    if (work_size < MLC_PORTABLE_WORK) return MLC_WORKSPACE;
    code_tree tree;
    mlc_error error = read_tree(from->tree, from->tree_size, 0, from->codes + 1, LONGEST, &tree);
    if (error != MLC_OK) return error;
    uint32_t *table = work;
    uint16_t *path = (uint16_t *)(table + ENTRIES);
    uint8_t *depth = (uint8_t *)(path + MLC_PORTABLE_SYMBOLS);
    uint8_t *copy = depth + MLC_PORTABLE_SYMBOLS, *scratch = copy + 256;
    reader r = {from, table, path, depth, from->stream, 0, 0};
    unsigned width = from->width, deepest = 0;
    for (size_t i = 0; i < from->segments; i++) {
        unsigned start = start_of(from, i);
        if (start > deepest) deepest = start;
    }
    if (start_of(from, 0) || deepest >= from->codes) return MLC_STARTS;
    fill(&r, &tree);

    lane l[LANES];
    size_t last = from->segments - 1, most = RUN_BYTES / from->step, done = 0, left = count;
    while (done < last) {
        size_t runs = last - done < LANES ? last - done : LANES, per = (last - done) / runs;
        if (per > most) per = most;
        error = mlc_has_bmi2 ? read_bmi2(&r, l, runs, done, per, scratch)
                             : read_plain(&r, l, runs, done, per, scratch);
        if (error != MLC_OK) return error;
        for (size_t j = 0; j < runs; j++) {
            const uint8_t *run = scratch + j * RUN_ITEMS * width;
            size_t items = (size_t)(l[j].dst - run) / width;
            if (items > left) return MLC_SYMBOLS;
            memcpy(dst, run, items * width);
            dst += items * width;
            left -= items;
        }
        done += runs * per;
    }
    /* the last segment with two bytes before it, where its first code may begin, and behind it
     * ones, which are never read as a code */
    size_t before = last ? 2 : 0, length = before + from->step;
    memcpy(copy, from->stream + last * from->step - before, length);
    memset(copy + length, 255, 16);
    r.bytes = copy;
    r.origin = last * from->step - before;
    lane end = {first_code(&r, last), (uint64_t)from->segments * from->step * 8, 0, 0, scratch,
                last, last};
    switch (width) {
    case 1: to_end(&r, &end, 64 - r.longest, 1); break;
    case 2: to_end(&r, &end, 64 - r.longest, 2); break;
    case 4: to_end(&r, &end, 64 - r.longest, 4); break;
    default: to_end(&r, &end, 64 - r.longest, 8);
    }
    size_t items = (size_t)(end.dst - scratch) / width;
    if (items != left) return MLC_SYMBOLS;
    memcpy(dst, scratch, items * width);
    return MLC_OK;
}

#define LEAF 0x8000u

mlc_error mlc_portable_levels(const uint8_t *bits, size_t size, const uint8_t *values,
                              unsigned codes, unsigned limit, unsigned width, uint8_t *dst,
                              size_t count, void *work, size_t work_size)
{
    code_tree tree;
    if (!good_width(width) || codes < 2 || codes > MLC_PORTABLE_SYMBOLS || !limit ||
        limit > LONGEST)
        return MLC_ARGUMENT;
    if (count / 8 > size || count > 8 * size || count > UINT32_MAX) return MLC_SYMBOLS;
    if (work_size < MLC_LEVELS_WORK(count)) return MLC_WORKSPACE;
    if (size < 1 || bits[0] >> 6 != 1) return MLC_TREE;
    mlc_error error = read_tree(bits, size, 2, codes, limit, &tree);
    if (error != MLC_OK) return error;
    uint16_t *child = work, *node = child + 2 * MLC_PORTABLE_SYMBOLS;
    uint32_t *place = (uint32_t *)((uint8_t *)work + 8192);
    node = (uint16_t *)(place + count);
    unsigned inner = 0, leaves = 0;
    size_t at = 2, ends = 8 * size;
    for (unsigned i = 0; i < 2 * codes - 2; i++, at++)
        child[i] = (uint16_t)(bit_at(bits, at) ? ++inner : LEAF | leaves++);
    for (size_t i = 0; i < count; i++) {
        place[i] = (uint32_t)i;
        node[i] = 0;
    }
    size_t left = count;
    while (left) { /* at most `limit` times: inner nodes of the last level have leaves only */
        size_t still = 0;
        if (left > ends - at) return MLC_CUT_OFF;
        for (size_t i = 0; i < left; i++, at++) {
            unsigned to = child[2 * node[i] + bit_at(bits, at)];
            uint32_t where = place[i];
            if (to & LEAF) {
                memcpy(dst + (size_t)where * width, values + (size_t)(to & ~LEAF) * width, width);
            } else {
                place[still] = where;
                node[still++] = (uint16_t)to;
            }
        }
        left = still;
    }
    if (ends - at >= 8) return MLC_LEFT_OVER;
    for (; at < ends; at++)
        if (bit_at(bits, at)) return MLC_PADDING;
    return MLC_OK;
}

mlc_error mlc_portable_scatter(const uint8_t *moves, const uint8_t *values, size_t moved,
                               const uint8_t *background, unsigned width, uint8_t *dst,
                               size_t count)
{
    if (!good_width(width)) return MLC_ARGUMENT;
    size_t size = count * width, filled = width, at = 0;
    if (size) memcpy(dst, background, width);
    while (filled < size) {
        size_t more = filled < size - filled ? filled : size - filled;
        memcpy(dst + filled, dst, more);
        filled += more;
    }
    for (size_t i = 0; i < moved; i++) {
        at += moves[i];
        if (!moves[i] || at > count) return MLC_GAPS;
        uint8_t *to = dst + (at - 1) * width;
        const uint8_t *value = values + i * width;
        switch (width) {
        case 1: *to = *value; break;
        case 2: memcpy(to, value, 2); break;
        case 4: memcpy(to, value, 4); break;
        default: memcpy(to, value, 8);
        }
    }
    return MLC_OK;
}
