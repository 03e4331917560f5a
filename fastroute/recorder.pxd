from fastroute.context cimport Context


cdef class Recorder:
    cdef public object _now, _wall, _random_bits, _admission, _crowd
