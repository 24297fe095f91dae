/* The thin Python binding of huffman.h. Holds no state, releases the GIL around every call that
 * takes long, and leaves each function through one exit. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "huffman.h"
#include "portable.h"

static PyObject *format_error; /* ValueError subclass: (code, text) */

static PyObject *fail(mlc_error error)
{
    PyObject *value = Py_BuildValue("(is)", (int)error, mlc_error_text(error));
    if (value) {
        PyErr_SetObject(format_error, value);
        Py_DECREF(value);
    }
    return NULL;
}

/* decode(payload, out, width, work, crc) -> None; raises Error(code, text).
 * crc is what the payload's crc32 must be; returns the crc32 of what was decoded. */
static PyObject *decode(PyObject *module, PyObject *args)
{
    Py_buffer payload = {0}, out = {0}, work = {0};
    unsigned int width;
    unsigned int crc = 0;
    mlc_error error = MLC_OK;
    PyObject *result = NULL;
    if (!PyArg_ParseTuple(args, "y*w*Iw*", &payload, &out, &width, &work)) return NULL;
    if (width == 0 || out.len % width) {
        error = MLC_ARGUMENT;
    } else {
        uintptr_t start = (uintptr_t)work.buf, aligned = (start + 63) & ~(uintptr_t)63;
        size_t lost = (size_t)(aligned - start);
        if ((size_t)work.len < lost + 64) {
            error = MLC_WORKSPACE;
        } else {
            Py_BEGIN_ALLOW_THREADS
            error = mlc_decode(payload.buf, (size_t)payload.len, out.buf,
                               (size_t)out.len / width, width, (void *)aligned,
                               ((size_t)work.len - lost) & ~(size_t)63, &crc);
            Py_END_ALLOW_THREADS
        }
    }
    result = error == MLC_OK ? PyLong_FromUnsignedLong(crc) : fail(error);
    PyBuffer_Release(&payload);
    PyBuffer_Release(&out);
    PyBuffer_Release(&work);
    return result;
}

/* crc32(data) -> int */
static PyObject *crc32(PyObject *module, PyObject *args)
{
    Py_buffer data;
    uint32_t crc;
    if (!PyArg_ParseTuple(args, "y*", &data)) return NULL;
    Py_BEGIN_ALLOW_THREADS
    crc = mlc_crc32(0, data.buf, (size_t)data.len);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&data);
    return PyLong_FromUnsignedLong(crc);
}

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
    if (!good) return fail(MLC_ARGUMENT);
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
    if (error != MLC_OK) return fail(error);
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
        fail(error);
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
    if (!good) return fail(MLC_ARGUMENT);
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
    if (!good) return fail(MLC_ARGUMENT);
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
    if (!good) return fail(MLC_ARGUMENT);
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
    if (!good) return fail(MLC_ARGUMENT);
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
    if (!good) return fail(MLC_ARGUMENT);
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
                : fail(MLC_ARGUMENT);
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
    return good ? PyLong_FromSize_t(found) : fail(MLC_ARGUMENT);
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
    if (!good) return fail(MLC_ARGUMENT);
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
                : fail(MLC_ARGUMENT);
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
    if (!good) return fail(MLC_ARGUMENT);
    Py_RETURN_NONE;
}

/* The part of a workspace that is aligned to 64. */
static void *aligned(const Py_buffer *work, size_t *size)
{
    size_t lost = (size_t)(-(uintptr_t)work->buf & 63);
    *size = (size_t)work->len > lost ? (size_t)work->len - lost : 0;
    return (char *)work->buf + lost;
}

/* portable_segments(stream, step, starts, start_width, tree, values, width, out, work) */
static PyObject *portable_segments(PyObject *module, PyObject *args)
{
    Py_buffer stream = {0}, starts = {0}, tree = {0}, values = {0}, out = {0}, work = {0};
    Py_ssize_t step;
    unsigned int start_width, width;
    mlc_error error = MLC_ARGUMENT;
    if (!PyArg_ParseTuple(args, "y*ny*Iy*y*Iw*w*", &stream, &step, &starts, &start_width, &tree,
                          &values, &width, &out, &work))
        return NULL;
    if (step > 0 && stream.len % step == 0 && width && out.len % width == 0 &&
        values.len % width == 0 && values.len / width <= MLC_PORTABLE_SYMBOLS && start_width &&
        starts.len / start_width == stream.len / step && starts.len % start_width == 0) {
        mlc_segments from = {stream.buf, (size_t)(stream.len / step), (size_t)step, starts.buf,
                             start_width, tree.buf, (size_t)tree.len, values.buf,
                             (unsigned)(values.len / width), width};
        size_t size;
        void *room = aligned(&work, &size);
        Py_BEGIN_ALLOW_THREADS
        error = mlc_portable_segments(&from, out.buf, (size_t)out.len / width, room, size);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&stream);
    PyBuffer_Release(&starts);
    PyBuffer_Release(&tree);
    PyBuffer_Release(&values);
    PyBuffer_Release(&out);
    PyBuffer_Release(&work);
    if (error != MLC_OK) return fail(error);
    Py_RETURN_NONE;
}

/* portable_levels(bits, values, limit, width, out, work) */
static PyObject *portable_levels(PyObject *module, PyObject *args)
{
    Py_buffer bits = {0}, values = {0}, out = {0}, work = {0};
    unsigned int limit, width;
    mlc_error error = MLC_ARGUMENT;
    if (!PyArg_ParseTuple(args, "y*y*IIw*w*", &bits, &values, &limit, &width, &out, &work))
        return NULL;
    if (width && out.len % width == 0 && values.len % width == 0 &&
        values.len / width <= MLC_PORTABLE_SYMBOLS) {
        size_t size;
        void *room = aligned(&work, &size);
        Py_BEGIN_ALLOW_THREADS
        error = mlc_portable_levels(bits.buf, (size_t)bits.len, values.buf,
                                    (unsigned)(values.len / width), limit, width, out.buf,
                                    (size_t)out.len / width, room, size);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&bits);
    PyBuffer_Release(&values);
    PyBuffer_Release(&out);
    PyBuffer_Release(&work);
    if (error != MLC_OK) return fail(error);
    Py_RETURN_NONE;
}

/* portable_scatter(moves, values, background, width, out) */
static PyObject *portable_scatter(PyObject *module, PyObject *args)
{
    Py_buffer moves = {0}, values = {0}, background = {0}, out = {0};
    unsigned int width;
    mlc_error error = MLC_ARGUMENT;
    if (!PyArg_ParseTuple(args, "y*y*y*Iw*", &moves, &values, &background, &width, &out))
        return NULL;
    if (width && out.len % width == 0 && values.len % width == 0 &&
        values.len / width == moves.len && background.len == (Py_ssize_t)width) {
        Py_BEGIN_ALLOW_THREADS
        error = mlc_portable_scatter(moves.buf, values.buf, (size_t)moves.len, background.buf,
                                     width, out.buf, (size_t)out.len / width);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&moves);
    PyBuffer_Release(&values);
    PyBuffer_Release(&background);
    PyBuffer_Release(&out);
    if (error != MLC_OK) return fail(error);
    Py_RETURN_NONE;
}

/* use_fast_paths(on): for tests of the portable code */
static PyObject *use_fast_paths(PyObject *module, PyObject *args)
{
    int on;
    if (!PyArg_ParseTuple(args, "p", &on)) return NULL;
    mlc_use_fast_paths(on);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"decode", decode, METH_VARARGS, "decode(payload, out, width, work) -> crc32 of out"},
    {"crc32", crc32, METH_VARARGS, "crc32(data) -> int"},
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
    {"portable_segments", portable_segments, METH_VARARGS,
     "portable_segments(stream, step, starts, start_width, tree, values, width, out, work)"},
    {"portable_levels", portable_levels, METH_VARARGS,
     "portable_levels(bits, values, limit, width, out, work)"},
    {"portable_scatter", portable_scatter, METH_VARARGS,
     "portable_scatter(moves, values, background, width, out)"},
    {"use_fast_paths", use_fast_paths, METH_VARARGS, "use_fast_paths(on)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_huffman", "The C half of mlflow_compress.packed.", -1, methods,
    NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__huffman(void)
{
    PyObject *module = PyModule_Create(&definition);
    mlc_init();
    if (!module) return NULL;
    format_error = PyErr_NewException("mlflow_compress.packed._huffman.Error", PyExc_ValueError,
                                      NULL);
    Py_XINCREF(format_error);
    if (PyModule_AddObject(module, "Error", format_error) < 0 ||
        PyModule_AddIntConstant(module, "WORKSPACE", MLC_WORKSPACE) < 0 ||
        PyModule_AddIntConstant(module, "PORTABLE_WORK", (long)MLC_PORTABLE_WORK) < 0 ||
        PyModule_AddIntConstant(module, "WORK_MIN", (long)MLC_WORK_MIN) < 0 ||
        PyModule_AddIntConstant(module, "WORK_MAX", (long)MLC_WORK_MAX) < 0) {
        Py_XDECREF(format_error);
        Py_DECREF(module);
        return NULL;
    }
    return module;
}
