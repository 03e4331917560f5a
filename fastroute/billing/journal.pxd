cdef class JournalWriter:
    cdef public object lost, _directory, _max_segment_bytes, _window_bytes, _max_backlog, _next_boot, _encode, _kinds
    cdef public object _queue, _queue_bytes, _window, _start, _filled, _sequence, _boot, _base, _number, _fd
    cdef public bint healthy, _stale
