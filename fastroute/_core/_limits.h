/* Arithmetic and 32-bit counts of the limits table. Counts are sequentially consistent: a worker announces its claim
   before it reads the others', so that of two that meet at a ceiling at least one sees the other. */
#ifndef FASTROUTE_LIMITS_H
#define FASTROUTE_LIMITS_H

#include <stdatomic.h>
#include <stdint.h>

_Static_assert(ATOMIC_INT_LOCK_FREE == 2 && sizeof(_Atomic int32_t) == 4, "32-bit atomics must be lock-free");

static inline void fr_add_32(int32_t *cell, int32_t change) {
    atomic_fetch_add_explicit((_Atomic int32_t *)cell, change, memory_order_seq_cst);
}

static inline void fr_store_32(int32_t *cell, int32_t value) {
    atomic_store_explicit((_Atomic int32_t *)cell, value, memory_order_seq_cst);
}

static inline int64_t fr_sum_32(int32_t *first, int64_t count) {
    int64_t sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += atomic_load_explicit((_Atomic int32_t *)(first + i), memory_order_seq_cst);
    return sum;
}

/* Whose a slot is, and how many use it; see _limits_c.pyx for their order. */
static inline int64_t fr_load_key(int64_t *cell) {
    return atomic_load_explicit((_Atomic int64_t *)cell, memory_order_seq_cst);
}

static inline void fr_store_key(int64_t *cell, int64_t value) {
    atomic_store_explicit((_Atomic int64_t *)cell, value, memory_order_seq_cst);
}

static inline void fr_add_users(int64_t *cell, int64_t change) {
    atomic_fetch_add_explicit((_Atomic int64_t *)cell, change, memory_order_seq_cst);
}

static inline int fr_cas_key(int64_t *cell, int64_t expect, int64_t desired) {
    return atomic_compare_exchange_strong_explicit(
        (_Atomic int64_t *)cell, &expect, desired, memory_order_seq_cst, memory_order_seq_cst);
}

/* count * period / limit, rounded down, at least 1 for a count above 0, at most `most`. */
static inline int64_t fr_cost_ns(int64_t count, int64_t limit, int64_t period, int64_t most) {
    if (count <= 0)
        return 0;
    unsigned __int128 cost = (unsigned __int128)(uint64_t)count * (uint64_t)period / (uint64_t)limit;
    if (cost > (unsigned __int128)(uint64_t)most)
        return most;
    return cost ? (int64_t)cost : 1;
}

/* ns * limit / period, rounded down. */
static inline int64_t fr_room(int64_t ns, int64_t limit, int64_t period) {
    return (int64_t)((unsigned __int128)(uint64_t)ns * (uint64_t)limit / (uint64_t)period);
}

/* Decimal digits of a value of 0 and above, at least `least` of them; returns how many. */
static inline int fr_digits(char *out, int64_t value, int least) {
    char reversed[24];
    int length = 0;
    do {
        reversed[length++] = (char)('0' + value % 10);
        value /= 10;
    } while (value || length < least);
    for (int i = 0; i < length; i++)
        out[i] = reversed[length - 1 - i];
    return length;
}

/* A length of time as OpenAI writes it, rounded up to milliseconds; returns its length. `out` has 48 bytes. */
static inline int fr_duration(char *out, int64_t ns) {
    int64_t ms = ns > 0 ? (ns - 1) / 1000000 + 1 : 0;
    int64_t seconds = ms / 1000, minutes = seconds / 60, hours = minutes / 60;
    int length = 0;
    if (ms < 1000) {
        length = fr_digits(out, ms, 1);
        if (ms)
            out[length++] = 'm';
        out[length++] = 's';
        return length;
    }
    if (hours) {
        length = fr_digits(out, hours, 1);
        out[length++] = 'h';
    }
    if (minutes) {
        length += fr_digits(out + length, minutes % 60, 1);
        out[length++] = 'm';
    }
    length += fr_digits(out + length, seconds % 60, 1);
    if (ms % 1000) {
        out[length++] = '.';
        length += fr_digits(out + length, ms % 1000, 3);
        while (out[length - 1] == '0')
            length--;
    }
    out[length++] = 's';
    return length;
}

static inline int fr_decimal(char *out, int64_t value) {
    return fr_digits(out, value > 0 ? value : 0, 1);
}

#endif
