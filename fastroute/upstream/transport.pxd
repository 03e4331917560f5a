from fastroute.context cimport Context


cdef class FastTransport:
    cdef public object _pool, _now, _lengths
