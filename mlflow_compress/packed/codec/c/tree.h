/* The tree of arrays of docs/format.md, section 4, as the decoder holds it; internal. */
#ifndef MLC_TREE_H
#define MLC_TREE_H

#include "bits.h"
#include "lanes.h"

enum { RAW, CONSTANT, HUFFMAN, CONTEXT, PACKED, PLANES, SPARSE, ROWS, CODEBOOK, WIDE, KINDS };

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

/* 64-byte aligned memory from the workspace: *out becomes its address. */
mlc_error mlc_take_memory(state *s, size_t size, void *out);

/* width bits (at most 16) from bit `at` of p; the caller knows that they are there */
MLC_INLINE unsigned get_bits(const uint8_t *p, size_t at, unsigned width)
{
    unsigned value = 0;
    for (unsigned got = 0, skip = (unsigned)(at & 7); got < width + skip; got += 8)
        value |= (unsigned)p[(at >> 3) + (got >> 3)] << got;
    return value >> (at & 7) & ((1u << width) - 1);
}

/* symbols in lane j of a group of count symbols */
MLC_INLINE size_t lane_symbols(const node *n, size_t count, unsigned j)
{
    if (n->per_lane == 0) return count;
    if (n->contiguous) return count / MLC_LANES + (j == MLC_LANES - 1 ? count % MLC_LANES : 0);
    return count / MLC_LANES + (j < count % MLC_LANES);
}

MLC_INLINE void used(node *n, size_t count)
{
    n->view += count;
    n->ready -= count;
    n->left -= count;
}

/* Parses and checks an array of count items of width bytes, of a level below `below`. */
mlc_error mlc_parse(state *s, node *n, size_t count, unsigned width, unsigned below);

/* For leaves and packed, while items are left: makes view and ready say what comes next. */
mlc_error mlc_peek(state *s, node *n);

/* The next count (at most left) items of a leaf or packed to dst[0..count*width). */
mlc_error mlc_pull_leaf(state *s, node *n, uint8_t *dst, size_t count);

#endif
