/* 64-bit cells shared by processes: C11 atomics over plain int64_t memory.

   The memory is a MAP_SHARED file, so an atomic must be lock-free: a lock inside one process would not be seen by
   another. Loads acquire, stores release, read-modify-writes do both; signed overflow wraps (C11 7.17.7.5). */
#ifndef FASTROUTE_ATOMICS_H
#define FASTROUTE_ATOMICS_H

#include <stdatomic.h>
#include <stdint.h>

_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2 && sizeof(long long) == 8, "64-bit atomics must be lock-free");
_Static_assert(sizeof(_Atomic int64_t) == 8, "an atomic 64-bit cell must be 8 bytes");

static inline int64_t fr_load(int64_t *cell) {
    return atomic_load_explicit((_Atomic int64_t *)cell, memory_order_acquire);
}

static inline void fr_store(int64_t *cell, int64_t value) {
    atomic_store_explicit((_Atomic int64_t *)cell, value, memory_order_release);
}

/* Returns the new value; the sum is taken unsigned, where wrapping is defined. */
static inline int64_t fr_add(int64_t *cell, int64_t delta) {
    int64_t old = atomic_fetch_add_explicit((_Atomic int64_t *)cell, delta, memory_order_acq_rel);
    return (int64_t)((uint64_t)old + (uint64_t)delta);
}

static inline int fr_cas(int64_t *cell, int64_t expect, int64_t desired) {
    return atomic_compare_exchange_strong_explicit(
        (_Atomic int64_t *)cell, &expect, desired, memory_order_acq_rel, memory_order_acquire);
}

#endif
