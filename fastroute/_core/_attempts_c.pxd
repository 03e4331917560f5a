from libc.stdint cimport int64_t, uint64_t


# Cost in normalised ms of a COST cell, decayed to now.
cdef double c_cost(uint64_t cell, int64_t now_ms, int64_t decay_ms) noexcept
# What one more request would meet, given the cost and the work in flight (in reference requests).
cdef double c_expected_load(double cost_ms, double work) noexcept
