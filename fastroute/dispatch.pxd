from fastroute.context cimport Context
from fastroute.upstream.endpoint cimport Endpoint


cdef class Dispatcher:
    cdef public object crowd
    cdef public object _worker, _now, _random_bits, _admission, _recorder
