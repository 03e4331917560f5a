cdef class Endpoint:
    cdef public object index, id, provider, key_id, upstream_model, weight, dialect, authority, base_path, fixed
    cdef public object default_headers, include_usage, connect_ns, first_byte_ns, idle_ns, total_ns, transport, card
    cdef public object limits, key, reply_header, secret, _starts
