cdef class Outbox:
    cdef public object _loop
    cdef public list _waiting
    cdef public Py_ssize_t _count
    cdef public bint _busy


cdef class Outgoing:
    cdef public object _transport
    cdef public Outbox _outbox
    cdef public bytes _kept
