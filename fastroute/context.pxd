# What the compiled corridor knows of `Context`. Whole numbers that cannot leave 63 bits are C's.

cdef class Context:
    cdef public object snapshot, downstream, request_id, task, dialect, operation, head_lines, query, principal, body
    cdef public object scan, called, model, wishes, plan, grant, cost_nano_usd, endpoint, outcome, error, usage
    cdef public object usage_source, first, survey, phase, interrupted, departure, retry_after_ms, prompt_tokens
    cdef public long long record_id, started_ns, arrived_wall_ns, deadline_ns, upstream_ns, first_byte_ns
    cdef public long long progress, seen_progress, marked_ns, limit_ns
    cdef public Py_ssize_t model_start, model_end, request_bytes, response_bytes
    cdef public int attempts, status
    cdef public bint admitted, settled, stream
