from fastroute.context cimport Context


cdef class Watch:
    cdef public object _loop, _now, _departed, _active, _timer
    cdef public long long _due_ns
    cdef public bint _forgave
