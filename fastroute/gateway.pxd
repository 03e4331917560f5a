from fastroute.books cimport Books
from fastroute.context cimport Context
from fastroute.dispatch cimport Dispatcher
from fastroute.recorder cimport Recorder
from fastroute.relay cimport Relay


cdef class Gateway:
    cdef public object snapshot, now, access, loop, recorder, dispatcher, bill_loser
    cdef public object _reader, _journal, _watch, _now, _wall, _id_prefix, _admission, _settle, _relay
