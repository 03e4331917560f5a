from fastroute.context cimport Context


cdef class Terms:
    cdef public object decision, policy, order, stages, regions, capabilities, max_cost_pico, asked_tokens


cdef class Planner:
    cdef public object routes, rules, tenants, providers, regions
    cdef public object _panic_percent, _read_asked, _filled, _has_tenants, _orders, _need
