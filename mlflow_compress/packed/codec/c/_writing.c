/* The binding of the writing half: histograms, lengths, lanes and splits. */
#include "binding.h"

/* histogram(data, counts): counts is 256 writable uint64 */
static PyObject *histogram(PyObject *module, PyObject *args)
{
    Py_buffer data = {0}, counts = {0};
    int good;
    if (!PyArg_ParseTuple(args, "y*w*", &data, &counts)) return NULL;
    good = counts.len == 256 * 8;
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        mlc_histogram(data.buf, (size_t)data.len, 1, counts.buf);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&counts);
    if (!good) return mlc_fail(MLC_ARGUMENT);
    Py_RETURN_NONE;
}

/* code_lengths(counts, limit, lengths): 256 uint64 in, 256 uint8 out */
static PyObject *code_lengths(PyObject *module, PyObject *args)
{
    Py_buffer counts = {0}, lengths = {0};
    unsigned int limit;
    mlc_error error = MLC_ARGUMENT;
    if (!PyArg_ParseTuple(args, "y*Iw*", &counts, &limit, &lengths)) return NULL;
    if (counts.len == 256 * 8 && lengths.len == 256)
        error = mlc_code_lengths(counts.buf, limit, lengths.buf);
    PyBuffer_Release(&counts);
    PyBuffer_Release(&lengths);
    if (error != MLC_OK) return mlc_fail(error);
    Py_RETURN_NONE;
}

/* encode(symbols, lengths, classes, per_lane, contiguous, bits, lane_bytes) -> bytes: classes is
 * None for kind 2; bits is how long all the codes are together; lane_bytes: uint32 out */
static PyObject *encode(PyObject *module, PyObject *args)
{
    Py_buffer symbols = {0}, lengths = {0}, classes = {0}, lanes = {0};
    Py_ssize_t per_lane, bits;
    int contiguous;
    mlc_error error = MLC_ARGUMENT;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*y*z*npnw*", &symbols, &lengths, &classes, &per_lane,
                          &contiguous, &bits, &lanes))
        return NULL;
    size_t count = (size_t)symbols.len, group = (size_t)per_lane * MLC_LANES, size = 0;
    int sound = per_lane >= 0 && per_lane <= MLC_MAX_LANE && count && bits >= 0 &&
                lengths.len == (classes.buf ? 4 : 1) * 256 &&
                (!classes.buf || (classes.len == 256 && per_lane > 0));
    size_t needed = per_lane > 0 ? (count + group - 1) / group * MLC_LANES : 1;
    if (sound && (size_t)lanes.len == needed * 4) {
        size = (size_t)bits / 8 + needed + mlc_encode_slack(count, (size_t)per_lane);
        result = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
        if (!result) goto done;
        uint8_t *out = (uint8_t *)PyBytes_AS_STRING(result);
        Py_BEGIN_ALLOW_THREADS
        error = classes.buf
                    ? mlc_encode_context(symbols.buf, count, lengths.buf, classes.buf,
                                         (size_t)per_lane, out, &size, lanes.buf)
                    : mlc_encode(symbols.buf, count, lengths.buf, (size_t)per_lane, contiguous,
                                 out, &size, lanes.buf);
        Py_END_ALLOW_THREADS
    }
    if (error != MLC_OK) {
        Py_CLEAR(result);
        mlc_fail(error);
    } else {
        _PyBytes_Resize(&result, (Py_ssize_t)size);
    }
done:
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&lengths);
    PyBuffer_Release(&classes);
    PyBuffer_Release(&lanes);
    return result;
}

/* pairs(symbols, counts): uint32[65536] out */
static PyObject *pairs(PyObject *module, PyObject *args)
{
    Py_buffer symbols = {0}, counts = {0};
    int good;
    if (!PyArg_ParseTuple(args, "y*w*", &symbols, &counts)) return NULL;
    good = counts.len == 65536 * 4;
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        mlc_pair_histogram(symbols.buf, (size_t)symbols.len, counts.buf);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&counts);
    if (!good) return mlc_fail(MLC_ARGUMENT);
    Py_RETURN_NONE;
}

static int sound_rows(const Py_buffer *data, Py_ssize_t row, Py_ssize_t step)
{
    return row > 0 && row <= 1 << 22 && step > 0 && data->len % row == 0;
}

/* train_rows(data, row, step, costs): uint64[256] out */
static PyObject *train_rows(PyObject *module, PyObject *args)
{
    Py_buffer data = {0}, costs = {0};
    Py_ssize_t row, step;
    int good;
    if (!PyArg_ParseTuple(args, "y*nnw*", &data, &row, &step, &costs)) return NULL;
    good = sound_rows(&data, row, step) && (data.len / row + step - 1) / step <= 256 &&
           costs.len == 256 * 8;
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        mlc_train_rows(data.buf, (size_t)(data.len / row), (size_t)row, (size_t)step, costs.buf);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&costs);
    if (!good) return mlc_fail(MLC_ARGUMENT);
    Py_RETURN_NONE;
}

/* assign_rows(data, row, step, costs, clusters, sums): uint8 per row and uint64[4 * 256] out */
static PyObject *assign_rows(PyObject *module, PyObject *args)
{
    Py_buffer data = {0}, costs = {0}, clusters = {0}, sums = {0};
    Py_ssize_t row, step;
    int good;
    if (!PyArg_ParseTuple(args, "y*nny*w*w*", &data, &row, &step, &costs, &clusters, &sums))
        return NULL;
    good = sound_rows(&data, row, step) && costs.len == 256 * 8 && sums.len == 4 * 256 * 8 &&
           clusters.len == (data.len / row + step - 1) / step;
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        mlc_assign_rows(data.buf, (size_t)(data.len / row), (size_t)row, (size_t)step, costs.buf,
                        clusters.buf, sums.buf);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&data);
    PyBuffer_Release(&costs);
    PyBuffer_Release(&clusters);
    PyBuffer_Release(&sums);
    if (!good) return mlc_fail(MLC_ARGUMENT);
    Py_RETURN_NONE;
}

/* translate(symbols, table, out) */
static PyObject *translate(PyObject *module, PyObject *args)
{
    Py_buffer symbols = {0}, table = {0}, out = {0};
    int good;
    if (!PyArg_ParseTuple(args, "y*y*w*", &symbols, &table, &out)) return NULL;
    good = table.len == 256 && out.len == symbols.len;
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        mlc_translate(symbols.buf, (size_t)symbols.len, table.buf, out.buf);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&table);
    PyBuffer_Release(&out);
    if (!good) return mlc_fail(MLC_ARGUMENT);
    Py_RETURN_NONE;
}

/* pack(symbols, per_byte, out) */
static PyObject *pack(PyObject *module, PyObject *args)
{
    Py_buffer symbols = {0}, out = {0};
    unsigned int per_byte;
    int good;
    if (!PyArg_ParseTuple(args, "y*Iw*", &symbols, &per_byte, &out)) return NULL;
    good = (per_byte == 2 || per_byte == 4 || per_byte == 8) &&
           out.len == (symbols.len + per_byte - 1) / per_byte;
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        mlc_pack(symbols.buf, (size_t)symbols.len, per_byte, out.buf);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&symbols);
    PyBuffer_Release(&out);
    if (!good) return mlc_fail(MLC_ARGUMENT);
    Py_RETURN_NONE;
}

/* write_lengths(lengths) -> bytes */
static PyObject *write_lengths(PyObject *module, PyObject *args)
{
    Py_buffer lengths = {0};
    uint8_t out[258];
    size_t size = 0;
    int used = 0;
    if (!PyArg_ParseTuple(args, "y*", &lengths)) return NULL;
    if (lengths.len == 256) {
        for (int s = 0; s < 256; s++) used += ((const uint8_t *)lengths.buf)[s] != 0;
        if (used >= 2) size = mlc_write_lengths(lengths.buf, out);
    }
    PyBuffer_Release(&lengths);
    return size ? PyBytes_FromStringAndSize((const char *)out, (Py_ssize_t)size)
                : mlc_fail(MLC_ARGUMENT);
}

/* distinct(items, width, most, values, indices, counts) -> int: uint64[most], uint16[count] and
 * uint64[most] out */
static PyObject *distinct(PyObject *module, PyObject *args)
{
    Py_buffer items = {0}, values = {0}, indices = {0}, counts = {0};
    unsigned int width, most;
    size_t found = 0;
    int good;
    if (!PyArg_ParseTuple(args, "y*IIw*w*w*", &items, &width, &most, &values, &indices, &counts))
        return NULL;
    good = (width == 1 || width == 2 || width == 4 || width == 8) && most >= 1 && most <= 4096 &&
           values.len == (Py_ssize_t)most * 8 && counts.len == values.len &&
           indices.len == items.len / width * 2;
    void *work = good ? PyMem_Malloc(MLC_DISTINCT_WORK) : NULL;
    good = good && work;
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        found = mlc_distinct(items.buf, (size_t)items.len / width, width, most, values.buf,
                             indices.buf, counts.buf, work);
        Py_END_ALLOW_THREADS
    }
    PyMem_Free(work);
    PyBuffer_Release(&items);
    PyBuffer_Release(&values);
    PyBuffer_Release(&indices);
    PyBuffer_Release(&counts);
    return good ? PyLong_FromSize_t(found) : mlc_fail(MLC_ARGUMENT);
}

/* divide(indices, sizes, high, low): uint16 indices below 4096 in; sizes: uint64[16], how many
 * indices each high part has, which is checked */
static PyObject *divide(PyObject *module, PyObject *args)
{
    Py_buffer indices = {0}, sizes = {0}, high = {0}, low = {0};
    int good;
    if (!PyArg_ParseTuple(args, "y*y*w*w*", &indices, &sizes, &high, &low)) return NULL;
    size_t count = (size_t)indices.len / 2, at[16], total = 0, seen[16] = {0};
    good = sizes.len == 16 * 8 && (size_t)high.len == count && (size_t)low.len == count;
    if (good) {
        for (size_t i = 0; i < count; i++) seen[((const uint16_t *)indices.buf)[i] >> 8 & 15]++;
        for (int part = 0; part < 16; part++) {
            at[part] = total;
            total += seen[part];
            good &= seen[part] == ((const uint64_t *)sizes.buf)[part];
        }
    }
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        mlc_divide(indices.buf, count, high.buf, low.buf, at);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&indices);
    PyBuffer_Release(&sizes);
    PyBuffer_Release(&high);
    PyBuffer_Release(&low);
    if (!good) return mlc_fail(MLC_ARGUMENT);
    Py_RETURN_NONE;
}

/* gaps(items, width, background, gaps, values) -> (int, int): writable outputs, see huffman.h */
static PyObject *gaps(PyObject *module, PyObject *args)
{
    Py_buffer items = {0}, steps = {0}, values = {0};
    unsigned int width;
    unsigned long long background;
    size_t gap_count = 0, value_count = 0;
    int good;
    if (!PyArg_ParseTuple(args, "y*IKw*w*", &items, &width, &background, &steps, &values))
        return NULL;
    good = (width == 1 || width == 2 || width == 4 || width == 8) && items.len % width == 0 &&
           steps.len >= items.len / width && values.len >= items.len;
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        mlc_gaps(items.buf, (size_t)items.len / width, width, background, steps.buf, &gap_count,
                 values.buf, &value_count);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&items);
    PyBuffer_Release(&steps);
    PyBuffer_Release(&values);
    return good ? Py_BuildValue("nn", (Py_ssize_t)gap_count, (Py_ssize_t)value_count)
                : mlc_fail(MLC_ARGUMENT);
}

/* split(items, width, rotate, planes) */
static PyObject *split(PyObject *module, PyObject *args)
{
    Py_buffer items = {0}, planes = {0};
    unsigned int width;
    int rotate, good;
    if (!PyArg_ParseTuple(args, "y*Ipw*", &items, &width, &rotate, &planes)) return NULL;
    good = (width == 2 || width == 4 || width == 8) && items.len % width == 0 &&
           planes.len == items.len;
    if (good) {
        Py_BEGIN_ALLOW_THREADS
        mlc_split(items.buf, (size_t)items.len / width, width, rotate, planes.buf);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&items);
    PyBuffer_Release(&planes);
    if (!good) return mlc_fail(MLC_ARGUMENT);
    Py_RETURN_NONE;
}

PyMethodDef mlc_writing_methods[] = {
    {"histogram", histogram, METH_VARARGS, "histogram(data, counts)"},
    {"code_lengths", code_lengths, METH_VARARGS, "code_lengths(counts, limit, lengths)"},
    {"encode", encode, METH_VARARGS,
     "encode(symbols, lengths, classes, per_lane, contiguous, bits, lane_bytes) -> bytes"},
    {"pairs", pairs, METH_VARARGS, "pairs(symbols, counts)"},
    {"train_rows", train_rows, METH_VARARGS, "train_rows(data, row, step, costs)"},
    {"assign_rows", assign_rows, METH_VARARGS,
     "assign_rows(data, row, step, costs, clusters, sums)"},
    {"translate", translate, METH_VARARGS, "translate(symbols, table, out)"},
    {"pack", pack, METH_VARARGS, "pack(symbols, per_byte, out)"},
    {"write_lengths", write_lengths, METH_VARARGS, "write_lengths(lengths) -> bytes"},
    {"distinct", distinct, METH_VARARGS,
     "distinct(items, width, most, values, indices, counts) -> int"},
    {"divide", divide, METH_VARARGS, "divide(indices, sizes, high, low)"},
    {"gaps", gaps, METH_VARARGS, "gaps(items, width, background, gaps, values) -> (int, int)"},
    {"split", split, METH_VARARGS, "split(items, width, rotate, planes)"},
    {NULL, NULL, 0, NULL},
};
