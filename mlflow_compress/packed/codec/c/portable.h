/* Readers of the portable profile's bit strings (docs/format.md, section 7), under the rules of
 * huffman.h: no Python, no heap, the caller's memory only, nothing outside the ranges stated. */
#ifndef MLC_PORTABLE_H
#define MLC_PORTABLE_H

#include "huffman.h"

#define MLC_PORTABLE_SYMBOLS 1024u
/* Workspace of mlc_portable_segments(), for items of 8 bytes, and of mlc_portable_levels(). */
#define MLC_PORTABLE_WORK (((size_t)1 << 17) + ((size_t)1 << 20) + 16384)
#define MLC_LEVELS_WORK(count) ((size_t)8192 + 6 * (size_t)(count))

/* What a stream is made of. A code is a value's rank; the last code, one more, means nothing. */
typedef struct {
    const uint8_t *stream; /* [0..segments * step) readable */
    size_t segments;       /* at least 1 */
    size_t step;           /* 64 or 128 */
    const uint8_t *starts; /* [0..segments * start_width) readable, little-endian */
    unsigned start_width;  /* 1 or 2 */
    const uint8_t *tree;   /* [0..tree_size) readable */
    size_t tree_size;
    const uint8_t *values; /* [0..codes * width) readable: the value of each code */
    unsigned codes;        /* 1 to MLC_PORTABLE_SYMBOLS, without the last code */
    unsigned width;        /* 1, 2, 4 or 8 */
} mlc_segments;

/* Decodes exactly count items: dst[0..count * width) and work[0..work_size) writable, work aligned
 * to 64, no overlap. MLC_WORKSPACE unless work_size is MLC_PORTABLE_WORK. On any error dst's
 * content is undefined. */
mlc_error mlc_portable_segments(const mlc_segments *from, uint8_t *dst, size_t count, void *work,
                                size_t work_size);

/* Decodes exactly count items of a stream in levels: bits[0..size) and values[0..codes * width)
 * readable, the value of each code; codes 2 to MLC_PORTABLE_SYMBOLS, none longer than limit;
 * dst and work as above, MLC_WORKSPACE unless work_size is MLC_LEVELS_WORK(count). */
mlc_error mlc_portable_levels(const uint8_t *bits, size_t size, const uint8_t *values,
                              unsigned codes, unsigned limit, unsigned width, uint8_t *dst,
                              size_t count, void *work, size_t work_size);

/* Fills dst[0..count * width) with background[0..width), then goes on by each of moves[0..moved)
 * and stores the next of values[0..moved * width). MLC_GAPS if a move is 0 or leads outside. */
mlc_error mlc_portable_scatter(const uint8_t *moves, const uint8_t *values, size_t moved,
                               const uint8_t *background, unsigned width, uint8_t *dst,
                               size_t count);

#endif
