cdef class Exchange:
    cdef public object head, length, incoming, method, path, query
    cdef public object _connection, _digits, _body, _left
    cdef public bint started, finished, closing, _chunked
