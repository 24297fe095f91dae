/* What the files of the Python binding share; internal. */
#ifndef MLC_BINDING_H
#define MLC_BINDING_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "huffman.h"

/* Raises the module's Error(code, text); returns NULL. */
PyObject *mlc_fail(mlc_error error);

/* Ends with a NULL entry. */
extern PyMethodDef mlc_writing_methods[];

#endif
