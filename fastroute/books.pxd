from fastroute.context cimport Context
from fastroute.upstream.endpoint cimport Endpoint


cdef class Books:
    cdef public object _journal, _now, _admission
