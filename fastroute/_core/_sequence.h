/* Numbers out of a list or tuple (what PySequence_Fast returns), without references or calls for the usual items:
   exact floats and ints of one digit.

   Other items may run Python code when they are converted, and that code may shorten the list: so the size is read
   at every access, and such an item is held while it is converted. */
#ifndef FASTROUTE_SEQUENCE_H
#define FASTROUTE_SEQUENCE_H

#include <Python.h>
#include <stdint.h>

/* An exact int of one digit, the value in *value; or false. */
static inline int fr_small_int(PyObject *o, Py_ssize_t *value) {
    if (!PyLong_CheckExact(o))
        return 0;
#if PY_VERSION_HEX >= 0x030C0000
    if (!PyUnstable_Long_IsCompact((PyLongObject *)o))
        return 0;
    *value = PyUnstable_Long_CompactValue((PyLongObject *)o);
#else
    Py_ssize_t digits = Py_SIZE(o);
    if (digits < -1 || digits > 1)
        return 0;
    *value = digits * (Py_ssize_t)((PyLongObject *)o)->ob_digit[0];
#endif
    return 1;
}

/* A borrowed reference, or NULL and IndexError. */
static inline PyObject *fr_item(PyObject *sequence, Py_ssize_t i) {
    if (i >= 0 && i < PySequence_Fast_GET_SIZE(sequence))
        return PySequence_Fast_GET_ITEM(sequence, i);
    PyErr_Format(PyExc_IndexError, "position %zd is not in 0..%zd", i, PySequence_Fast_GET_SIZE(sequence) - 1);
    return NULL;
}

/* A position; -1 and an exception if the item is no integer (TypeError) or too large for any (IndexError). */
static inline Py_ssize_t fr_position(PyObject *sequence, Py_ssize_t i) {
    Py_ssize_t value;
    PyObject *item = fr_item(sequence, i);
    if (item == NULL)
        return -1;
    if (fr_small_int(item, &value))
        return value;
    Py_INCREF(item);
    value = PyNumber_AsSsize_t(item, PyExc_IndexError);
    Py_DECREF(item);
    return value;
}

/* A real number; -1.0 and an exception if the item is none (TypeError) or too large for a double (OverflowError). */
static inline double fr_number(PyObject *sequence, Py_ssize_t i) {
    double number;
    Py_ssize_t value;
    PyObject *item = fr_item(sequence, i);
    if (item == NULL)
        return -1.0;
    if (PyFloat_CheckExact(item))
        return PyFloat_AS_DOUBLE(item);
    if (fr_small_int(item, &value))
        return (double)value;
    Py_INCREF(item);
    number = PyFloat_AsDouble(item);
    Py_DECREF(item);
    return number;
}

/* bits * n / 2**64, rounded down: 0..n-1. */
static inline uint64_t fr_scale(uint64_t bits, uint64_t n) {
    return (uint64_t)(((unsigned __int128)bits * n) >> 64);
}

#endif
