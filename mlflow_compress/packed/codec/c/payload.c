/* Pulls arrays through in small blocks, so that memory is bounded and what is checksummed is still
 * in the cache. */
#include "tree.h"

#if MLC_X86
#include <tmmintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

static mlc_error pull(state *s, node *n, uint8_t *dst, size_t count);

/* The planes' bytes as items; turned: turn each right by one bit. */
MLC_INLINE void merge_rest(const uint8_t *const *p, uint8_t *dst, size_t from, size_t count,
                           unsigned width, int turned)
{
    for (size_t i = from; i < count; i++) {
        uint64_t x = 0;
        for (unsigned plane = 0; plane < width; plane++) x |= (uint64_t)p[plane][i] << 8 * plane;
        if (turned) x = x >> 1 | (x & 1) << (8 * width - 1);
        for (unsigned b = 0; b < width; b++) dst[i * width + b] = (uint8_t)(x >> 8 * b);
    }
}

#if defined(__SSE2__)
#define LOAD(plane) _mm_loadu_si128((const __m128i *)(p[plane] + i))
#define STORE(k, x) _mm_storeu_si128((__m128i *)(dst + i * width) + (k), x)
#define TURN(x, bits)                                                                              \
    (turned ? _mm_or_si128(_mm_srli_epi##bits(x, 1), _mm_slli_epi##bits(x, bits - 1)) : (x))

MLC_INLINE void merge_four(const uint8_t *const *p, uint8_t *dst, size_t count, int turned)
{
    enum { width = 4 };
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        __m128i a = LOAD(0), b = LOAD(1), c = LOAD(2), d = LOAD(3);
        __m128i ab = _mm_unpacklo_epi8(a, b), cd = _mm_unpacklo_epi8(c, d);
        __m128i ef = _mm_unpackhi_epi8(a, b), gh = _mm_unpackhi_epi8(c, d);
        STORE(0, TURN(_mm_unpacklo_epi16(ab, cd), 32));
        STORE(1, TURN(_mm_unpackhi_epi16(ab, cd), 32));
        STORE(2, TURN(_mm_unpacklo_epi16(ef, gh), 32));
        STORE(3, TURN(_mm_unpackhi_epi16(ef, gh), 32));
    }
    merge_rest(p, dst, i, count, width, turned);
}

MLC_INLINE void merge_two(const uint8_t *const *p, uint8_t *dst, size_t count, int turned)
{
    enum { width = 2 };
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        __m128i a = LOAD(0), b = LOAD(1);
        STORE(0, TURN(_mm_unpacklo_epi8(a, b), 16));
        STORE(1, TURN(_mm_unpackhi_epi8(a, b), 16));
    }
    merge_rest(p, dst, i, count, width, turned);
}
#else
#define merge_four(p, dst, count, turned) merge_rest(p, dst, 0, count, 4, turned)
#define merge_two(p, dst, count, turned) merge_rest(p, dst, 0, count, 2, turned)
#endif

static void merge(const uint8_t *const *p, uint8_t *dst, size_t count, unsigned width, int turned)
{
    if (width == 4 && turned) merge_four(p, dst, count, 1);
    else if (width == 4) merge_four(p, dst, count, 0);
    else if (width == 2 && turned) merge_two(p, dst, count, 1);
    else if (width == 2) merge_two(p, dst, count, 0);
    else merge_rest(p, dst, 0, count, width, turned);
}

static mlc_error pull_planes(state *s, node *n, uint8_t *dst, size_t count)
{
    while (count) {
        const uint8_t *p[8] = {0};
        size_t now = count;
        for (unsigned plane = 0; plane < n->width; plane++) {
            node *inner = n->inner + plane;
            TRY(mlc_peek(s, inner));
            p[plane] = inner->view;
            if (inner->ready < now) now = inner->ready;
        }
        merge(p, dst, now, n->width, n->transform);
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
        TRY(mlc_peek(s, inner));
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
            TRY(mlc_peek(s, gaps));
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
            TRY(mlc_peek(s, ids));
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

#if MLC_X86
/* dst[i] = values[index[i]] for i in 0..count, indices below 16: sixteen at a time */
MLC_TARGET("ssse3")
static void lookup_sixteen(const uint8_t *values, const uint8_t *index, uint8_t *dst, size_t count)
{
    const __m128i table = _mm_loadu_si128((const __m128i *)values);
    size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        __m128i at = _mm_loadu_si128((const __m128i *)(index + i));
        _mm_storeu_si128((__m128i *)(dst + i), _mm_shuffle_epi8(table, at));
    }
    for (; i < count; i++) dst[i] = values[index[i]];
}
#else
#define lookup_sixteen(values, index, dst, count) ((void)0)
#endif

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
        case 1:
            if (n->entries <= 16 && mlc_has_ssse3) lookup_sixteen(n->values, n->buffer, dst, now);
            else LOOKUP(uint8_t)
            break;
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
        TRY(mlc_peek(s, high));
        size_t now = high->ready < count ? high->ready : count;
        for (size_t i = 0; i < now; i++) {
            unsigned part = high->view[i];
            if (part + 1 >= n->inner_count) return MLC_INDEX;
            node *low = n->inner + 1 + part;
            if (!low->ready) {
                TRY(mlc_peek(s, low));
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
    default: return mlc_pull_leaf(s, n, dst, count);
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
    TRY(mlc_take_memory(&s, MLC_TAIL_BYTES, &s.tail));
    TRY(mlc_parse(&s, &root, count, width, 6));
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
