/* The thin Python binding of huffman.h. Holds no state, releases the GIL around every call that
 * takes long, and leaves each function through one exit. */
#include "binding.h"
#include "portable.h"

static PyObject *format_error; /* ValueError subclass: (code, text) */

PyObject *mlc_fail(mlc_error error)
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
    result = error == MLC_OK ? PyLong_FromUnsignedLong(crc) : mlc_fail(error);
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
    if (error != MLC_OK) return mlc_fail(error);
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
    if (error != MLC_OK) return mlc_fail(error);
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
    if (error != MLC_OK) return mlc_fail(error);
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
    if (PyModule_AddFunctions(module, mlc_writing_methods) < 0 ||
        PyModule_AddObject(module, "Error", format_error) < 0 ||
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
