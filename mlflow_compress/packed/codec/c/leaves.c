/* What an array is made of in the end: raw bytes, constants, Huffman lanes, several to a byte. */
#include "tree.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

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

static void spread_two(const uint8_t *from, uint8_t *to, size_t bytes)
{
    size_t i = 0;
#if defined(__SSE2__)
    const __m128i low = _mm_set1_epi8(15);
    for (; i + 16 <= bytes; i += 16) {
        __m128i both = _mm_loadu_si128((const __m128i *)(from + i));
        __m128i first = _mm_and_si128(both, low);
        __m128i second = _mm_and_si128(_mm_srli_epi16(both, 4), low);
        _mm_storeu_si128((__m128i *)(to + 2 * i), _mm_unpacklo_epi8(first, second));
        _mm_storeu_si128((__m128i *)(to + 2 * i + 16), _mm_unpackhi_epi8(first, second));
    }
#endif
    for (; i < bytes; i++) {
        to[2 * i] = from[i] & 15;
        to[2 * i + 1] = from[i] >> 4;
    }
}

static void spread_four(const uint8_t *from, uint8_t *to, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        for (unsigned j = 0; j < 4; j++) to[4 * i + j] = from[i] >> 2 * j & 3;
}

static void spread_eight(const uint8_t *from, uint8_t *to, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        /* one bit of the byte in each byte, moved to the bottom */
        uint64_t bits = from[i] * 0x0101010101010101u & 0x8040201008040201u;
        mlc_store64(to + 8 * i, (bits + 0x7F7F7F7F7F7F7F7Fu) >> 7 & 0x0101010101010101u);
    }
}

static mlc_error spread(state *s, node *n)
{
    node *inner = n->inner;
    if (!n->buffer) TRY(mlc_take_memory(s, BLOCK, &n->buffer));
    TRY(mlc_peek(s, inner));
    size_t bytes = inner->ready < BLOCK / n->per_byte ? inner->ready : BLOCK / n->per_byte;
    const uint8_t *from = inner->view;
    uint8_t *to = n->buffer;
    switch (n->per_byte) {
    case 2: spread_two(from, to, bytes); break;
    case 4: spread_four(from, to, bytes); break;
    default: spread_eight(from, to, bytes); break;
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

mlc_error mlc_peek(state *s, node *n)
{
    if (n->ready) return MLC_OK;
    if (n->left == 0) return MLC_OK;
    if (n->kind == PACKED) return spread(s, n);
    if (n->kind == CONSTANT) {
        if (!n->buffer) {
            TRY(mlc_take_memory(s, BLOCK, &n->buffer));
            memset(n->buffer, (int)n->background, BLOCK);
        }
        n->view = n->buffer;
        n->ready = n->left < BLOCK ? n->left : BLOCK;
        return MLC_OK;
    }
    size_t group = group_size(n);
    if (!n->buffer) TRY(mlc_take_memory(s, group, &n->buffer));
    TRY(next_group(s, n, n->buffer, group));
    n->view = n->buffer;
    n->ready = group;
    return MLC_OK;
}

mlc_error mlc_pull_leaf(state *s, node *n, uint8_t *dst, size_t count)
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
        TRY(mlc_peek(s, n));
        size_t now = n->ready < count ? n->ready : count;
        memcpy(dst, n->view, now);
        used(n, now);
        dst += now;
        count -= now;
    }
    return MLC_OK;
}
