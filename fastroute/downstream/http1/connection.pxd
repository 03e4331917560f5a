from fastroute.downstream.http1.exchange cimport Exchange
from fastroute.outgoing cimport Outgoing


cdef class Connection:
    cdef public object listener
    cdef public Outgoing transport
    cdef public Exchange exchange
    cdef public object _loop, _task, _turn, _buffer, _rest, _waiters, _since, _lingered, _stalled, _stalled_since
    cdef public bint eof, _held, _lost, _lingering, _write_paused
