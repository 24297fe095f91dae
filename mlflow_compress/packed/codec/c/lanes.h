/* Huffman tables and the eight-lane kernels (docs/format.md, section 5); internal. */
#ifndef MLC_LANES_H
#define MLC_LANES_H

#include "huffman.h"

#define MLC_TABLE_SIZE (1u << MLC_MAX_LENGTH)
/* bytes that the kernels may read past what a lane's codes can reach */
#define MLC_SLACK 16
#define MLC_TAIL_BYTES ((size_t)MLC_LANES * (MLC_MAX_LANE * MLC_MAX_LENGTH / 8 + MLC_LANES * 2) + \
                        MLC_MAX_LANE * MLC_MAX_LENGTH / 8 + 64)

/* Builds a decoding table from lengths[0..256): entries[0..MLC_TABLE_SIZE) writable; an entry is
 * symbol << 8 | length, indexed by the next MLC_MAX_LENGTH bits. Returns the longest length, or 0
 * if the code is not complete. */
unsigned mlc_build_table(const uint8_t *lengths, uint16_t *entries);

/* Canonical codes, bit-reversed, of lengths[0..256) into codes[0..256). */
void mlc_codes(const uint8_t *lengths, uint16_t *codes);

/* Decodes one group with a table whose longest code has b bits. lane[0..8) point to the lanes'
 * first bytes and size[j] are their lengths; for every j,
 * lane[j][0 .. ceil(symbols of j * b / 8) + MLC_SLACK) must be readable. dst[0..count) writable. */
mlc_error mlc_decode_group(const uint16_t *entries, const uint8_t *const *lane,
                           const uint32_t *size, uint8_t *dst, size_t count, int contiguous);

/* The same for contiguous lanes of kind 3. entries[0..MLC_CLASSES * MLC_CONTEXT_SIZE) hold a table
 * per class; an entry is next class * MLC_CONTEXT_SIZE << 16 | symbol << 8 | length, indexed by
 * class * MLC_CONTEXT_SIZE | the next 11 bits. first: the class at the start times
 * MLC_CONTEXT_SIZE. */
#define MLC_CONTEXT_SIZE (1u << MLC_CONTEXT_LENGTH)
mlc_error mlc_decode_context(const uint32_t *entries, unsigned first, const uint8_t *const *lane,
                             const uint32_t *size, uint8_t *dst, size_t count);

/* The same as mlc_decode_group() for one lane alone. */
mlc_error mlc_decode_lane(const uint16_t *entries, const uint8_t *lane, size_t size, uint8_t *dst,
                          size_t count);

#endif
