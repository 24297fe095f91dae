/* Parses the tree of arrays of docs/format.md, section 4, and checks it before anything is decoded. */
#include "tree.h"

static const uint8_t levels[KINDS] = {0, 0, 0, 0, 1, 2, 3, 4, 5, 5};

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

static mlc_error parse_lanes(state *s, node *n);

static mlc_error parse_huffman(state *s, node *n)
{
    uint8_t lengths[256];
    uint16_t *entries;
    uint64_t number;
    TRY(get_lengths(s, lengths));
    TRY(mlc_take_memory(s, MLC_TABLE_SIZE * sizeof *entries, &entries));
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
    TRY(mlc_take_memory(s, MLC_TABLE_SIZE * sizeof *one, &one));
    TRY(mlc_take_memory(s, MLC_CLASSES * MLC_CONTEXT_SIZE * sizeof *all, &all));
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

static mlc_error parse_inner(state *s, node *n, unsigned at, size_t count, unsigned width,
                             unsigned below)
{
    return mlc_parse(s, n->inner + at, count, width, below);
}

static mlc_error take_inner(state *s, node *n, unsigned count)
{
    TRY(mlc_take_memory(s, count * sizeof *n->inner, &n->inner));
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
    if (n->width > 1) TRY(mlc_take_memory(s, BLOCK, &n->values));
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
        TRY(mlc_peek(s, ids));
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
    TRY(mlc_take_memory(s, (size_t)(wide ? 4096 : 256) * n->width, &n->values));
    memset(n->values, 0, (size_t)(wide ? 4096 : 256) * n->width);
    memcpy(n->values, s->at, n->entries * n->width);
    s->at += n->entries * n->width;
    if (!wide) {
        TRY(take_inner(s, n, 1));
        TRY(mlc_take_memory(s, BLOCK, &n->buffer));
        return parse_inner(s, n, 0, n->count, 1, levels[CODEBOOK]);
    }
    size_t sizes[16] = {0};
    unsigned parts = (unsigned)((n->entries + 255) / 256);
    TRY(take_inner(s, n, parts + 1));
    state before = *s;
    TRY(parse_inner(s, n, 0, n->count, 1, levels[SPARSE]));
    for (node *high = n->inner; high->left;) {
        TRY(mlc_peek(s, high));
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

mlc_error mlc_parse(state *s, node *n, size_t count, unsigned width, unsigned below)
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
