from fastroute.context cimport Context
from fastroute.upstream.endpoint cimport Endpoint


cdef class Relay:
    cdef public object _now, _settle, _admission, _pace
