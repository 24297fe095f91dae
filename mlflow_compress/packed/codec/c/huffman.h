/* The codec of docs/format.md: no Python, no heap, the caller's memory only.
 *
 * Every function states the valid range of each pointer. Nothing outside those ranges is read or
 * written, whatever the bytes say. Functions are pure but for their outputs, so they may run on
 * several threads at once after mlc_init() has returned once.
 */
#ifndef MLC_HUFFMAN_H
#define MLC_HUFFMAN_H

#include <stddef.h>
#include <stdint.h>

#define MLC_MAX_LENGTH 12
#define MLC_MAX_LANE 8192
#define MLC_CONTEXT_LENGTH 11
#define MLC_CLASSES 4u
#define MLC_LANES 8
#define MLC_WORK_MIN ((size_t)1 << 18)
#define MLC_WORK_MAX ((size_t)1 << 25)

/* One table of errors; mlc_error_text() says what they mean. */
#define MLC_ERRORS(X)                                                                              \
    X(OK, "no error")                                                                              \
    X(WORKSPACE, "the workspace is too small")                                                     \
    X(CUT_OFF, "the payload is cut off")                                                           \
    X(LEFT_OVER, "bytes are left over after the payload")                                          \
    X(KIND, "an array of this kind is not allowed here")                                           \
    X(NUMBER, "a number is too large or not in its shortest form")                                 \
    X(TABLE, "a code table is not complete")                                                       \
    X(LANE_LENGTH, "a Huffman lane is longer than its symbols can be")                             \
    X(LANE_END, "a Huffman lane does not end where it should")                                     \
    X(PADDING, "padding bits are not 0")                                                           \
    X(INDEX, "a codebook index is too large")                                                      \
    X(GAPS, "gaps do not fit the array")                                                           \
    X(ROWS, "rows do not fit the array")                                                           \
    X(ARGUMENT, "an argument is out of range")                                                     \
    X(TREE, "the code tree is not canonical or has not as many leaves as there are codes")         \
    X(TREE_DEPTH, "a code is longer than its decoder reads")                                       \
    X(STARTS, "wrong segment starts")                                                              \
    X(SEGMENT, "a segment does not lead to the next one")                                          \
    X(SYMBOLS, "the stream does not hold as many symbols as are due")

typedef enum {
#define X(name, text) MLC_##name,
    MLC_ERRORS(X)
#undef X
        MLC_ERROR_COUNT
} mlc_error;

/* A static, one-line text for any value. */
const char *mlc_error_text(int error);

/* Finds out what the processor can do and fills the checksum's tables. Call once, first. */
void mlc_init(void);

/* Turns the BMI2 and carry-less multiply paths off (0) or back on (1), for tests. */
void mlc_use_fast_paths(int on);

/* zlib's crc32 of data[0..size), continuing from crc (0 at first). data may be null if size is 0. */
uint32_t mlc_crc32(uint32_t crc, const uint8_t *data, size_t size);

/* Decodes one payload: src[0..src_size) readable, dst[0..count*width) writable,
 * work[0..work_size) writable and aligned to 64; they must not overlap. width is 1, 2, 4 or 8.
 * On success *crc is the crc32 of dst. MLC_WORKSPACE asks for a larger workspace; MLC_WORK_MAX
 * is always enough. On any error dst's content is undefined. */
mlc_error mlc_decode(const uint8_t *src, size_t src_size, uint8_t *dst, size_t count,
                     unsigned width, void *work, size_t work_size, uint32_t *crc);

/* counts[0..256) becomes how often each value occurs in data[0], data[stride], …, count of them. */
void mlc_histogram(const uint8_t *data, size_t count, size_t stride, uint64_t *counts);

/* Finds four clusters of rows of `row` bytes (at most 2^22), looking at the first 1,024 bytes of
 * every step-th row, at most 256 rows: data[0..rows * row) readable, costs[0..256) writable: for each symbol, what it costs in
 * each cluster, in sixteenths of a bit, four numbers of 16 bits. */
void mlc_train_rows(const uint8_t *data, size_t rows, size_t row, size_t step, uint64_t *costs);

/* Puts every step-th row into its cheapest cluster: clusters[0..ceil(rows / step)) writable,
 * sums[0..4 * 256) become the clusters' histograms. */
void mlc_assign_rows(const uint8_t *data, size_t rows, size_t row, size_t step,
                     const uint64_t *costs, uint8_t *clusters, uint64_t *sums);

/* Optimal code lengths of at most limit (8 to 15) bits: counts[0..256) readable, at least two of
 * them not 0; lengths[0..256) writable. */
mlc_error mlc_code_lengths(const uint64_t *counts, unsigned limit, uint8_t *lengths);

/* Serialises lengths[0..256), at least two of them not 0, to out[0..256 + 2); returns the bytes
 * used. */
size_t mlc_write_lengths(const uint8_t *lengths, uint8_t *out);

/* counts[0..65536) becomes how often each symbol follows each other one: counts[before << 8 | s].
 * symbols[0..count) readable; before the first there is a 0. */
void mlc_pair_histogram(const uint8_t *symbols, size_t count, uint32_t *counts);

/* Packs per_byte (2, 4 or 8) symbols, each below 2^(8 / per_byte), into a byte:
 * symbols[0..count) readable, out[0..ceil(count / per_byte)) writable. */
void mlc_pack(const uint8_t *symbols, size_t count, unsigned per_byte, uint8_t *out);

/* How much room mlc_encode() and mlc_encode_context() want beyond what they will have written. */
size_t mlc_encode_slack(size_t count, size_t per_lane);

/* Writes Huffman lanes: symbols[0..count) readable, each with lengths[symbol] in 1..12;
 * lengths[0..256) readable and complete; out[0..*out_size) writable; lane_bytes[0..8 * groups)
 * writable (one lane for per_lane 0). *out_size becomes the bytes used. MLC_WORKSPACE if out has
 * not always mlc_encode_slack() bytes left. */
mlc_error mlc_encode(const uint8_t *symbols, size_t count, const uint8_t *lengths,
                     size_t per_lane, int contiguous, uint8_t *out, size_t *out_size,
                     uint32_t *lane_bytes);

/* Writes the lanes of kind 3 (docs/format.md, section 6): as mlc_encode() in contiguous lanes, but
 * with lengths[0..4 * 256), each at most 11, of a table per class, and classes[0..256), each below
 * 4. A symbol's length in a class in which it occurs is not 0. per_lane is not 0. */
mlc_error mlc_encode_context(const uint8_t *symbols, size_t count, const uint8_t *lengths,
                             const uint8_t *classes, size_t per_lane, uint8_t *out,
                             size_t *out_size, uint32_t *lane_bytes);

/* Indexes up to most (1 to 4096) distinct items of width 1, 2, 4 or 8: items[0..count*width)
 * readable, values[0..most) and indices[0..count) writable. Returns how many distinct there are,
 * or most + 1 as soon as there are more. Values are sorted, indices point into them,
 * counts[0..most) says how often each occurs.
 * work[0..MLC_DISTINCT_WORK) writable and aligned to 4. */
size_t mlc_distinct(const uint8_t *items, size_t count, unsigned width, size_t most,
                    uint64_t *values, uint16_t *indices, uint64_t *counts, void *work);
#define MLC_DISTINCT_WORK ((size_t)65536 * 4)

/* out[i] = table[symbols[i]]: symbols[0..count) and table[0..256) readable, out[0..count) writable,
 * none of which overlap. */
void mlc_translate(const uint8_t *symbols, size_t count, const uint8_t *table, uint8_t *out);

/* Cuts 12-bit indices into high parts and, sorted by these, low bytes: indices[0..count) readable,
 * high[0..count) and low[0..count) writable; at[0..16): where in low each part starts, as the
 * counts of the parts say; becomes where it ends. */
void mlc_divide(const uint16_t *indices, size_t count, uint8_t *high, uint8_t *low, size_t *at);

/* Splits items into gaps and values (docs/format.md, section 4, kind 6): items[0..count*width)
 * readable, gaps[0..count) and values[0..count*width) writable. *gap_count and *value_count
 * become how many of each were written. */
void mlc_gaps(const uint8_t *items, size_t count, unsigned width, uint64_t background,
              uint8_t *gaps, size_t *gap_count, uint8_t *values, size_t *value_count);

/* Cuts items into byte planes: items[0..count*width) readable, planes[0..count*width) writable.
 * rotate: turn items left by one bit first. */
void mlc_split(const uint8_t *items, size_t count, unsigned width, int rotate, uint8_t *planes);

#endif
