from fastroute.context cimport Context


cdef class RequestReader:
    cdef public object _limits, _scanner, _known_kinds
