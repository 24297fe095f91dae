/* The tree of arrays of docs/format.md, section 4: parsed and checked first, then pulled through
 * in small blocks, so that memory is bounded and what is checksummed is still in the cache. */
#include "bits.h"
#include "lanes.h"

enum { RAW, CONSTANT, HUFFMAN, CONTEXT, PACKED, PLANES, SPARSE, ROWS, CODEBOOK, WIDE, KINDS };
static const uint8_t levels[KINDS] = {0, 0, 0, 0, 1, 2, 3, 4, 5, 5};

#define BLOCK 8192u
#define ESCAPE 255u

typedef struct node node;

struct node {
    uint8_t kind, width, contiguous, transform, clusters, per_byte;
    size_t count; /* items in all */
    size_t left;  /* items not yet handed on */
    /* leaves and packed: bytes ready at view[0..ready) */
    const uint8_t *view;
    size_t ready;
    uint8_t *buffer;
    /* huffman */
    const uint16_t *table;
    const uint32_t *class_table;
    unsigned table_bits, first_class;
    size_t per_lane, undecoded;
    const uint8_t *lengths, *lanes, *end;
    uint32_t least;
    unsigned length_bits;
    size_t lane_number;
    /* sparse, rows, codebooks */
    uint64_t background;
    size_t gaps_left, skip, row, row_left, entries;
    unsigned cluster;
    int pending;
    uint8_t *values;
    size_t value_at, value_ready;
    node *inner;
    unsigned inner_count;
};

typedef struct {
    const uint8_t *at, *end;
    uint8_t *work, *work_end;
    uint8_t *tail; /* MLC_TAIL_BYTES, for lanes near the payload's end */
    uint32_t lane_total;
} state;

#define TRY(call)                                                                                  \
    do {                                                                                           \
        mlc_error error_ = (call);                                                                 \
        if (error_ != MLC_OK) return error_;                                                       \
    } while (0)
#define NEED(s, n)                                                                                 \
    do {                                                                                           \
        if ((size_t)((s)->end - (s)->at) < (size_t)(n)) return MLC_CUT_OFF;                        \
    } while (0)

static mlc_error take_memory(state *s, size_t size, void *out)
{
    size = (size + 63) & ~(size_t)63;
    if ((size_t)(s->work_end - s->work) < size) return MLC_WORKSPACE;
    uint8_t *memory = s->work;
    s->work += size;
    memcpy(out, &memory, sizeof memory);
    return MLC_OK;
}

static mlc_error get_number(state *s, uint64_t limit, uint64_t *out)
{
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 63; shift += 7) {
        NEED(s, 1);
        unsigned byte = *s->at++;
        value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) {
            if ((byte == 0 && shift) || value > limit) return MLC_NUMBER;
            *out = value;
            return MLC_OK;
        }
    }
    return MLC_NUMBER;
}

/* width bits (at most 16) from bit `at` of p; the caller knows that they are there */
MLC_INLINE unsigned get_bits(const uint8_t *p, size_t at, unsigned width)
{
    unsigned value = 0;
    for (unsigned got = 0, skip = (unsigned)(at & 7); got < width + skip; got += 8)
        value |= (unsigned)p[(at >> 3) + (got >> 3)] << got;
    return value >> (at & 7) & ((1u << width) - 1);
}

static mlc_error get_lengths(state *s, uint8_t *lengths)
{
    NEED(s, 2);
    unsigned low = s->at[0], high = s->at[1], last = 6, symbol = low, have = 0;
    uint64_t bits = 0;
    if (low >= high) return MLC_TABLE;
    memset(lengths, 0, 256);
    s->at += 2;
    while (symbol <= high) {
        while (have < 7 && s->at < s->end) {
            bits |= (uint64_t)*s->at++ << have;
            have += 8;
        }
        unsigned used = 1, length = last, run = 0;
        if (bits & 1) {
            used = bits & 2 ? 7 : 3;
            if (!(bits & 2)) length = bits & 4 ? last - 1 : last + 1;
            else if (bits & 4) length = bits >> 3 & 15;
            else run = (unsigned)(bits >> 3 & 15) + 1;
        }
        if (used > have) return MLC_CUT_OFF;
        bits >>= used;
        have -= used;
        if (run) {
            symbol += run;
            continue;
        }
        if (length < 1 || length > MLC_MAX_LENGTH) return MLC_TABLE;
        lengths[symbol++] = (uint8_t)length;
        last = length;
    }
    s->at -= have / 8;
    if (bits & ((1u << have % 8) - 1)) return MLC_PADDING;
    return symbol == high + 1 && lengths[low] && lengths[high] ? MLC_OK : MLC_TABLE;
}

/* symbols in lane j of a group of count symbols */
MLC_INLINE size_t lane_symbols(const node *n, size_t count, unsigned j)
{
    if (n->per_lane == 0) return count;
    if (n->contiguous) return count / MLC_LANES + (j == MLC_LANES - 1 ? count % MLC_LANES : 0);
    return count / MLC_LANES + (j < count % MLC_LANES);
}

static mlc_error parse_lanes(state *s, node *n);

static mlc_error parse_huffman(state *s, node *n)
{
    uint8_t lengths[256];
    uint16_t *entries;
    uint64_t number;
    TRY(get_lengths(s, lengths));
    TRY(take_memory(s, MLC_TABLE_SIZE * sizeof *entries, &entries));
    n->table = entries;
    n->table_bits = mlc_build_table(lengths, entries);
    if (n->table_bits == 0) return MLC_TABLE;
    TRY(get_number(s, 2 * MLC_MAX_LANE + 1, &number));
    n->per_lane = (size_t)(number >> 1);
    n->contiguous = number & 1;
    return parse_lanes(s, n);
}

static mlc_error parse_context(state *s, node *n)
{
    uint8_t lengths[256], classes[256];
    uint16_t *one;
    uint32_t *all;
    uint64_t number;
    unsigned value = 0;
    NEED(s, 2);
    unsigned tables = s->at[0], runs = s->at[1];
    s->at += 2;
    if (tables < 2 || tables > MLC_CLASSES) return MLC_NUMBER;
    for (; runs; runs--) {
        NEED(s, 2);
        unsigned class = s->at[0], run = s->at[1] + 1u;
        s->at += 2;
        if (class >= tables || value + run > 256) return MLC_NUMBER;
        while (run--) classes[value++] = (uint8_t)class;
    }
    if (value != 256) return MLC_NUMBER;
    TRY(take_memory(s, MLC_TABLE_SIZE * sizeof *one, &one));
    TRY(take_memory(s, MLC_CLASSES * MLC_CONTEXT_SIZE * sizeof *all, &all));
    memset(all, 0, MLC_CLASSES * MLC_CONTEXT_SIZE * sizeof *all);
    for (unsigned class = 0; class < tables; class ++) {
        TRY(get_lengths(s, lengths));
        unsigned bits = mlc_build_table(lengths, one);
        if (bits == 0 || bits > MLC_CONTEXT_LENGTH) return MLC_TABLE;
        for (unsigned i = 0; i < MLC_CONTEXT_SIZE; i++)
            all[class * MLC_CONTEXT_SIZE + i] =
                one[i] | (uint32_t)classes[one[i] >> 8] * MLC_CONTEXT_SIZE << 16;
    }
    n->class_table = all;
    n->table_bits = MLC_CONTEXT_LENGTH;
    n->first_class = classes[0] * MLC_CONTEXT_SIZE;
    TRY(get_number(s, MLC_MAX_LANE, &number));
    n->per_lane = (size_t)number;
    n->contiguous = 1;
    if (n->per_lane == 0) return MLC_NUMBER;
    return parse_lanes(s, n);
}

/* The lanes' lengths, and the lanes: the end of both kinds. */
static mlc_error parse_lanes(state *s, node *n)
{
    uint64_t number;
    n->undecoded = n->count;
    n->lane_number = 0;
    size_t lanes = 1, total = 0;
    if (n->per_lane == 0) {
        if (n->contiguous || n->count > MLC_MAX_LANE) return MLC_NUMBER;
    } else {
        lanes = (n->count + MLC_LANES * n->per_lane - 1) / (MLC_LANES * n->per_lane) * MLC_LANES;
        /* a lane with symbols has a byte at least, so what is left bounds the loop below */
        if (lanes > (size_t)(s->end - s->at) + MLC_LANES) return MLC_CUT_OFF;
    }
    TRY(get_number(s, MLC_LANES * MLC_MAX_LANE * MLC_MAX_LENGTH, &number));
    n->least = (uint32_t)number;
    n->length_bits = 0;
    n->lengths = s->at;
    if (n->per_lane) {
        NEED(s, 1);
        n->length_bits = *s->at++;
        if (n->length_bits > 16) return MLC_NUMBER;
        n->lengths = s->at;
        size_t bits = lanes * n->length_bits, bytes = (bits + 7) / 8;
        NEED(s, bytes);
        s->at += bytes;
        if (bits % 8 && s->at[-1] >> bits % 8) return MLC_PADDING;
    }
    size_t symbols = n->count;
    for (size_t lane = 0; lane < lanes; lane++) {
        size_t group = n->per_lane ? MLC_LANES * n->per_lane : n->count;
        if (group > symbols) group = symbols;
        size_t size = n->least + (n->length_bits ? get_bits(n->lengths, lane * n->length_bits,
                                                            n->length_bits) : 0);
        size_t here = lane_symbols(n, group, lane % MLC_LANES);
        if (size > (here * MLC_MAX_LENGTH + 7) / 8 || size < (here + 7) / 8)
            return MLC_LANE_LENGTH;
        total += size;
        if (lane % MLC_LANES == MLC_LANES - 1) symbols -= group;
        NEED(s, total);
    }
    n->lanes = s->at;
    s->at += total;
    n->end = s->at;
    return MLC_OK;
}

/* Decodes the next group to dst[0..count). */
static mlc_error next_group(state *s, node *n, uint8_t *dst, size_t count)
{
    const uint8_t *lane[MLC_LANES], *at = n->lanes;
    uint32_t size[MLC_LANES];
    unsigned lanes = n->per_lane ? MLC_LANES : 1;
    size_t reach = (lane_symbols(n, count, lanes == 1 ? 0 : MLC_LANES - 1) + MLC_LANES) *
                       n->table_bits / 8 + MLC_SLACK;
    if (!n->contiguous && lanes != 1)
        reach = (count / MLC_LANES + 1) * n->table_bits / 8 + 1 + MLC_SLACK;
    for (unsigned j = 0; j < lanes; j++) {
        size[j] = n->least;
        if (n->length_bits)
            size[j] += get_bits(n->lengths, n->lane_number * n->length_bits, n->length_bits);
        n->lane_number++;
        lane[j] = at;
        at += size[j];
    }
    if ((size_t)(s->end - lane[lanes - 1]) < reach || (size_t)(s->end - lane[0]) < reach) {
        /* near the end: from a copy with zeros behind it */
        size_t span = (size_t)(at - n->lanes);
        memcpy(s->tail, n->lanes, span);
        memset(s->tail + span, 0, reach);
        for (unsigned j = 0; j < lanes; j++) lane[j] = s->tail + (lane[j] - n->lanes);
    }
    n->lanes = at;
    n->undecoded -= count;
    if (n->kind == CONTEXT)
        return mlc_decode_context(n->class_table, n->first_class, lane, size, dst, count);
    if (lanes == 1) return mlc_decode_lane(n->table, lane[0], size[0], dst, count);
    return mlc_decode_group(n->table, lane, size, dst, count, n->contiguous);
}

static size_t group_size(const node *n)
{
    size_t group = n->per_lane ? MLC_LANES * n->per_lane : n->count;
    return group < n->undecoded ? group : n->undecoded;
}

static mlc_error peek(state *s, node *n);

static mlc_error spread(state *s, node *n)
{
    node *inner = n->inner;
    unsigned bits = 8u / n->per_byte, mask = (1u << bits) - 1;
    if (!n->buffer) TRY(take_memory(s, BLOCK, &n->buffer));
    TRY(peek(s, inner));
    size_t bytes = inner->ready < BLOCK / n->per_byte ? inner->ready : BLOCK / n->per_byte;
    const uint8_t *from = inner->view;
    uint8_t *to = n->buffer;
    if (n->per_byte == 2) {
        for (size_t i = 0; i < bytes; i++) {
            uint16_t two = (uint16_t)((from[i] & 15) | (from[i] >> 4) << 8);
            if (!MLC_LITTLE) two = (uint16_t)(two << 8 | two >> 8);
            memcpy(to + 2 * i, &two, 2);
        }
    } else {
        for (size_t i = 0; i < bytes; i++)
            for (unsigned j = 0; j < n->per_byte; j++)
                to[i * n->per_byte + j] = (uint8_t)(from[i] >> j * bits & mask);
    }
    inner->view += bytes;
    inner->ready -= bytes;
    inner->left -= bytes;
    n->view = to;
    n->ready = bytes * n->per_byte;
    if (n->ready > n->left) {
        for (size_t i = n->left; i < n->ready; i++)
            if (to[i]) return MLC_PADDING;
        n->ready = n->left;
    }
    return MLC_OK;
}

/* For leaves and packed, while items are left: makes view and ready say what comes next. */
static mlc_error peek(state *s, node *n)
{
    if (n->ready) return MLC_OK;
    if (n->left == 0) return MLC_OK;
    if (n->kind == PACKED) return spread(s, n);
    if (n->kind == CONSTANT) {
        if (!n->buffer) {
            TRY(take_memory(s, BLOCK, &n->buffer));
            memset(n->buffer, (int)n->background, BLOCK);
        }
        n->view = n->buffer;
        n->ready = n->left < BLOCK ? n->left : BLOCK;
        return MLC_OK;
    }
    size_t group = group_size(n);
    if (!n->buffer) TRY(take_memory(s, group, &n->buffer));
    TRY(next_group(s, n, n->buffer, group));
    n->view = n->buffer;
    n->ready = group;
    return MLC_OK;
}

static mlc_error parse(state *s, node *n, size_t count, unsigned width, unsigned below);
static mlc_error pull(state *s, node *n, uint8_t *dst, size_t count);

static mlc_error parse_inner(state *s, node *n, unsigned at, size_t count, unsigned width,
                             unsigned below)
{
    return parse(s, n->inner + at, count, width, below);
}

static mlc_error take_inner(state *s, node *n, unsigned count)
{
    TRY(take_memory(s, count * sizeof *n->inner, &n->inner));
    memset(n->inner, 0, count * sizeof *n->inner);
    n->inner_count = count;
    return MLC_OK;
}

static mlc_error take_item(state *s, node *n)
{
    NEED(s, n->width);
    n->background = mlc_load_item(s->at, n->width);
    s->at += n->width;
    return MLC_OK;
}

static mlc_error parse_sparse(state *s, node *n)
{
    uint64_t values, gaps;
    TRY(take_item(s, n));
    TRY(get_number(s, n->count, &values));
    TRY(get_number(s, n->count, &gaps));
    if (gaps < values) return MLC_GAPS;
    TRY(take_inner(s, n, 2));
    TRY(parse_inner(s, n, 0, (size_t)gaps, 1, levels[SPARSE]));
    TRY(parse_inner(s, n, 1, (size_t)values, n->width, levels[SPARSE]));
    n->gaps_left = (size_t)gaps;
    n->value_at = n->value_ready = 0;
    if (n->width > 1) TRY(take_memory(s, BLOCK, &n->values));
    return MLC_OK;
}

static mlc_error parse_rows(state *s, node *n)
{
    uint64_t row;
    TRY(get_number(s, n->count, &row));
    NEED(s, 1);
    n->clusters = *s->at++;
    if (row == 0 || n->count % row || n->clusters < 2 || n->clusters > 16) return MLC_ROWS;
    n->row = (size_t)row;
    size_t rows = n->count / n->row, sizes[16] = {0};
    TRY(take_inner(s, n, n->clusters + 1u));
    /* the clusters' sizes are needed before they are parsed: read the ids once for that */
    state before = *s;
    TRY(parse_inner(s, n, 0, rows, 1, 2));
    for (node *ids = n->inner; ids->left;) {
        TRY(peek(s, ids));
        for (size_t i = 0; i < ids->ready; i++) {
            if (ids->view[i] >= n->clusters) return MLC_ROWS;
            sizes[ids->view[i]]++;
        }
        ids->left -= ids->ready;
        ids->ready = 0;
    }
    const uint8_t *after = s->at;
    *s = before;
    memset(n->inner, 0, sizeof *n->inner);
    TRY(parse_inner(s, n, 0, rows, 1, 2));
    s->at = after;
    for (unsigned c = 0; c < n->clusters; c++)
        TRY(parse_inner(s, n, c + 1, sizes[c] * n->row, n->width, levels[ROWS]));
    n->row_left = 0;
    return MLC_OK;
}

static mlc_error parse_codebook(state *s, node *n)
{
    uint64_t entries;
    int wide = n->kind == WIDE;
    TRY(get_number(s, wide ? 4096 : 256, &entries));
    if (entries < (wide ? 257 : 1)) return MLC_INDEX;
    n->entries = (size_t)entries;
    NEED(s, n->entries * n->width);
    /* room for every index that can be read before it is checked */
    TRY(take_memory(s, (size_t)(wide ? 4096 : 256) * n->width, &n->values));
    memset(n->values, 0, (size_t)(wide ? 4096 : 256) * n->width);
    memcpy(n->values, s->at, n->entries * n->width);
    s->at += n->entries * n->width;
    if (!wide) {
        TRY(take_inner(s, n, 1));
        TRY(take_memory(s, BLOCK, &n->buffer));
        return parse_inner(s, n, 0, n->count, 1, levels[CODEBOOK]);
    }
    size_t sizes[16] = {0};
    unsigned parts = (unsigned)((n->entries + 255) / 256);
    TRY(take_inner(s, n, parts + 1));
    state before = *s;
    TRY(parse_inner(s, n, 0, n->count, 1, levels[SPARSE]));
    for (node *high = n->inner; high->left;) {
        TRY(peek(s, high));
        for (size_t i = 0; i < high->ready; i++) {
            if (high->view[i] >= parts) return MLC_INDEX;
            sizes[high->view[i]]++;
        }
        high->left -= high->ready;
        high->ready = 0;
    }
    const uint8_t *after = s->at;
    *s = before;
    memset(n->inner, 0, sizeof *n->inner);
    TRY(parse_inner(s, n, 0, n->count, 1, levels[SPARSE]));
    s->at = after;
    for (unsigned part = 0; part < parts; part++)
        TRY(parse_inner(s, n, part + 1, sizes[part], 1, levels[SPARSE]));
    return MLC_OK;
}

static mlc_error parse(state *s, node *n, size_t count, unsigned width, unsigned below)
{
    NEED(s, 1);
    n->kind = *s->at++;
    n->width = (uint8_t)width;
    n->count = n->left = count;
    n->view = s->at;
    if (n->kind >= KINDS || levels[n->kind] >= below || (count == 0 && n->kind != RAW))
        return MLC_KIND;
    switch (n->kind) {
    case RAW:
        if (count > (size_t)(s->end - s->at) / width) return MLC_CUT_OFF;
        n->view = s->at;
        n->ready = count;
        s->at += count * width;
        return MLC_OK;
    case CONSTANT:
        return take_item(s, n);
    case HUFFMAN:
        return width == 1 ? parse_huffman(s, n) : MLC_KIND;
    case CONTEXT:
        return width == 1 ? parse_context(s, n) : MLC_KIND;
    case PACKED:
        if (width != 1) return MLC_KIND;
        NEED(s, 1);
        n->per_byte = *s->at++;
        if (n->per_byte != 2 && n->per_byte != 4 && n->per_byte != 8) return MLC_NUMBER;
        TRY(take_inner(s, n, 1));
        return parse_inner(s, n, 0, (count + n->per_byte - 1) / n->per_byte, 1, 1);
    case PLANES:
        if (width == 1) return MLC_KIND;
        NEED(s, 1);
        n->transform = *s->at++;
        if (n->transform > 1) return MLC_NUMBER;
        TRY(take_inner(s, n, width));
        for (unsigned plane = 0; plane < width; plane++)
            TRY(parse_inner(s, n, plane, count, 1, levels[PLANES]));
        return MLC_OK;
    case SPARSE:
        return parse_sparse(s, n);
    case ROWS:
        return parse_rows(s, n);
    case CODEBOOK:
    case WIDE:
        return parse_codebook(s, n);
    default:
        return MLC_KIND;
    }
}

MLC_INLINE void used(node *n, size_t count)
{
    n->view += count;
    n->ready -= count;
    n->left -= count;
}

static mlc_error pull_leaf(state *s, node *n, uint8_t *dst, size_t count)
{
    if (n->width > 1) {
        if (n->kind == RAW) {
            memcpy(dst, n->view + (n->count - n->left) * n->width, count * n->width);
        } else {
            for (size_t i = 0; i < count; i++)
                for (unsigned b = 0; b < n->width; b++)
                    dst[i * n->width + b] = (uint8_t)(n->background >> 8 * b);
        }
        n->left -= count;
        return MLC_OK;
    }
    while (count) {
        size_t group = (n->kind == HUFFMAN || n->kind == CONTEXT) && !n->ready ? group_size(n) : 0;
        if (group && group <= count) {
            TRY(next_group(s, n, dst, group));
            n->left -= group;
            dst += group;
            count -= group;
            continue;
        }
        TRY(peek(s, n));
        size_t now = n->ready < count ? n->ready : count;
        memcpy(dst, n->view, now);
        used(n, now);
        dst += now;
        count -= now;
    }
    return MLC_OK;
}

/* The planes' bytes as items of `type`, which the caller's width is; restrict lets the compiler
 * take sixteen at a time. */
#define MERGER(name, type, expression)                                                             \
    static void name(const uint8_t *const *p, uint8_t *restrict dst, size_t count, int turned)     \
    {                                                                                              \
        const uint8_t *restrict p0 = p[0], *restrict p1 = p[1], *restrict p2 = p[2],               \
                      *restrict p3 = p[3];                                                         \
        (void)p2, (void)p3;                                                                        \
        if (turned) {                                                                              \
            for (size_t i = 0; i < count; i++) {                                                   \
                type x = (type)(expression);                                                       \
                x = (type)(x >> 1 | (type)(x << (8 * sizeof x - 1)));                              \
                memcpy(dst + i * sizeof x, &x, sizeof x);                                          \
            }                                                                                      \
        } else {                                                                                   \
            for (size_t i = 0; i < count; i++) {                                                   \
                type x = (type)(expression);                                                       \
                memcpy(dst + i * sizeof x, &x, sizeof x);                                          \
            }                                                                                      \
        }                                                                                          \
    }

MERGER(merge2, uint16_t, p0[i] | p1[i] << 8)
MERGER(merge4, uint32_t,
       p0[i] | (uint32_t)p1[i] << 8 | (uint32_t)p2[i] << 16 | (uint32_t)p3[i] << 24)

static void merge_any(const uint8_t *const *p, uint8_t *dst, size_t count, unsigned width,
                      int turned)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t x = 0;
        for (unsigned plane = 0; plane < width; plane++) x |= (uint64_t)p[plane][i] << 8 * plane;
        if (turned) x = x >> 1 | (x & 1) << (8 * width - 1);
        for (unsigned b = 0; b < width; b++) dst[i * width + b] = (uint8_t)(x >> 8 * b);
    }
}

static mlc_error pull_planes(state *s, node *n, uint8_t *dst, size_t count)
{
    while (count) {
        const uint8_t *p[8] = {0};
        size_t now = count;
        for (unsigned plane = 0; plane < n->width; plane++) {
            node *inner = n->inner + plane;
            TRY(peek(s, inner));
            p[plane] = inner->view;
            if (inner->ready < now) now = inner->ready;
        }
        if (MLC_LITTLE && n->width == 2) merge2(p, dst, now, n->transform);
        else if (MLC_LITTLE && n->width == 4) merge4(p, dst, now, n->transform);
        else merge_any(p, dst, now, n->width, n->transform);
        for (unsigned plane = 0; plane < n->width; plane++) used(n->inner + plane, now);
        dst += now * n->width;
        count -= now;
        n->left -= now;
    }
    return MLC_OK;
}

/* The next values of a sparse array: *values[0..*ready) */
static mlc_error sparse_values(state *s, node *n, const uint8_t **values, size_t *ready)
{
    node *inner = n->inner + 1;
    if (n->width == 1) {
        TRY(peek(s, inner));
        *values = inner->view;
        *ready = inner->ready;
        return MLC_OK;
    }
    if (n->value_at == n->value_ready) {
        size_t now = BLOCK / n->width;
        if (now > inner->left) now = inner->left;
        TRY(pull(s, inner, n->values, now));
        n->value_at = 0;
        n->value_ready = now;
    }
    *values = n->values + n->value_at * n->width;
    *ready = n->value_ready - n->value_at;
    return MLC_OK;
}

MLC_INLINE void fill(uint8_t *dst, size_t count, unsigned width, uint64_t item)
{
    uint64_t repeated = item;
    for (unsigned bits = 8 * width; bits < 64; bits *= 2) repeated |= repeated << bits;
    if (repeated == (item & 255) * 0x0101010101010101u) {
        memset(dst, (int)(item & 255), count * width);
        return;
    }
    size_t bytes = count * width, i = 0;
    for (; i + 8 <= bytes; i += 8) mlc_store64(dst + i, repeated);
    for (; i < bytes; i++) dst[i] = (uint8_t)(repeated >> 8 * (i & 7));
}

/* skip: background items before the next store, or beyond the last one */
MLC_INLINE mlc_error scatter(state *s, node *n, uint8_t *dst, size_t count, unsigned width)
{
    node *gaps = n->inner;
    size_t at = n->skip;
    fill(dst, count, width, n->background);
    for (;;) {
        if (!n->pending) {
            TRY(peek(s, gaps));
            if (!gaps->ready) break;
            const uint8_t *gap = gaps->view, *gap_end = gap + gaps->ready, *value, *value_end;
            size_t ready;
            TRY(sparse_values(s, n, &value, &ready));
            const uint8_t *first = value;
            value_end = value + ready * width;
            /* the fast part: gaps and values at hand, inside the block */
            while (gap < gap_end && value < value_end) {
                unsigned g = *gap;
                if (g == ESCAPE) {
                    at += ESCAPE;
                    gap++;
                    if (at > ((size_t)1 << 62)) return MLC_GAPS;
                    continue;
                }
                if (at + g >= count) break;
                at += g;
                memcpy(dst + at * width, value, width);
                at++;
                value += width;
                gap++;
            }
            size_t stored = (size_t)(value - first) / width;
            if (width == 1) used(n->inner + 1, stored);
            else n->value_at += stored;
            used(gaps, (size_t)(gap - gaps->view));
            if (gap == gap_end) continue;
            if (*gap != ESCAPE) {
                at += *gap;
                n->pending = 1;
            } else {
                at += ESCAPE;
            }
            used(gaps, 1);
            if (!n->pending) continue;
        }
        if (at >= count) break;
        const uint8_t *value;
        size_t ready;
        TRY(sparse_values(s, n, &value, &ready));
        if (!ready) return MLC_GAPS;
        memcpy(dst + at * width, value, width);
        if (width == 1) used(n->inner + 1, 1);
        else n->value_at++;
        at++;
        n->pending = 0;
    }
    n->left -= count;
    if (n->left == 0) {
        /* everything is used up, and nothing was to come after the last item */
        if (n->pending || at > count || gaps->left || n->inner[1].left ||
            n->value_at != n->value_ready)
            return MLC_GAPS;
        return MLC_OK;
    }
    if (at < count && !n->pending) at = count; /* no gaps are left: background to the end */
    n->skip = at - count;
    return MLC_OK;
}

static mlc_error pull_sparse(state *s, node *n, uint8_t *dst, size_t count)
{
    switch (n->width) {
    case 1: return scatter(s, n, dst, count, 1);
    case 2: return scatter(s, n, dst, count, 2);
    case 4: return scatter(s, n, dst, count, 4);
    default: return scatter(s, n, dst, count, 8);
    }
}

static mlc_error pull_rows(state *s, node *n, uint8_t *dst, size_t count)
{
    node *ids = n->inner;
    n->left -= count;
    while (count) {
        if (n->row_left == 0) {
            TRY(peek(s, ids));
            n->cluster = ids->view[0];
            if (n->cluster >= n->clusters) return MLC_ROWS;
            used(ids, 1);
            n->row_left = n->row;
        }
        size_t now = n->row_left < count ? n->row_left : count;
        node *cluster = n->inner + 1 + n->cluster;
        if (cluster->left < now) return MLC_ROWS;
        TRY(pull(s, cluster, dst, now));
        n->row_left -= now;
        dst += now * n->width;
        count -= now;
    }
    return MLC_OK;
}

#define LOOKUP(type)                                                                               \
    for (size_t i = 0; i < now; i++)                                                               \
        memcpy(dst + i * sizeof(type), n->values + n->buffer[i] * sizeof(type), sizeof(type));

static mlc_error pull_codebook(state *s, node *n, uint8_t *dst, size_t count)
{
    while (count) {
        size_t now = count < BLOCK ? count : BLOCK;
        uint8_t largest = 0;
        TRY(pull(s, n->inner, n->buffer, now));
        for (size_t i = 0; i < now; i++) largest = n->buffer[i] > largest ? n->buffer[i] : largest;
        if (largest >= n->entries) return MLC_INDEX;
        switch (n->width) {
        case 1: LOOKUP(uint8_t) break;
        case 2: LOOKUP(uint16_t) break;
        case 4: LOOKUP(uint32_t) break;
        default: LOOKUP(uint64_t) break;
        }
        dst += now * n->width;
        count -= now;
        n->left -= now;
    }
    return MLC_OK;
}

static mlc_error pull_wide(state *s, node *n, uint8_t *dst, size_t count)
{
    while (count) {
        node *high = n->inner;
        TRY(peek(s, high));
        size_t now = high->ready < count ? high->ready : count;
        for (size_t i = 0; i < now; i++) {
            unsigned part = high->view[i];
            if (part + 1 >= n->inner_count) return MLC_INDEX;
            node *low = n->inner + 1 + part;
            if (!low->ready) {
                TRY(peek(s, low));
                if (!low->ready) return MLC_INDEX;
            }
            size_t index = (size_t)part << 8 | *low->view;
            used(low, 1);
            if (index >= n->entries) return MLC_INDEX;
            memcpy(dst + i * n->width, n->values + index * n->width, n->width);
        }
        used(high, now);
        dst += now * n->width;
        count -= now;
        n->left -= now;
    }
    return MLC_OK;
}

/* The next count (at most left) items to dst[0..count*width). */
static mlc_error pull(state *s, node *n, uint8_t *dst, size_t count)
{
    switch (n->kind) {
    case PLANES: return pull_planes(s, n, dst, count);
    case SPARSE: return pull_sparse(s, n, dst, count);
    case ROWS: return pull_rows(s, n, dst, count);
    case CODEBOOK: return pull_codebook(s, n, dst, count);
    case WIDE: return pull_wide(s, n, dst, count);
    default: return pull_leaf(s, n, dst, count);
    }
}

mlc_error mlc_decode(const uint8_t *src, size_t src_size, uint8_t *dst, size_t count,
                     unsigned width, void *work, size_t work_size, uint32_t *crc)
{
    state s = {src, src + src_size, work, (uint8_t *)work + work_size, NULL, 0};
    node root;
    if (width != 1 && width != 2 && width != 4 && width != 8) return MLC_ARGUMENT;
    if (count > ((size_t)1 << 40) / width) return MLC_ARGUMENT;
    memset(&root, 0, sizeof root);
    TRY(take_memory(&s, MLC_TAIL_BYTES, &s.tail));
    TRY(parse(&s, &root, count, width, 6));
    if (s.at != s.end) return MLC_LEFT_OVER;
    /* whole groups where the root is Huffman, so that they decode in place */
    size_t block = 4 * BLOCK;
    if ((root.kind == HUFFMAN || root.kind == CONTEXT) && root.per_lane)
        block = MLC_LANES * root.per_lane;
    *crc = 0;
    while (root.left) {
        size_t now = root.left < block ? root.left : block;
        TRY(pull(&s, &root, dst, now));
        *crc = mlc_crc32(*crc, dst, now * width);
        dst += now * width;
    }
    return MLC_OK;
}
