/* A 64-bit hash of a few bytes: fold the 128-bit product of two keyed words, 16 bytes a step.

   Not for secrets and not against flooding: the keys are constants. Its users hold tables fixed at construction or of
   bounded search, so that a caller's choice of bytes lengthens no chain. Keys: the first fractional bits of pi.
   Words are read little-endian, so that a hash is the same on every host. */
#ifndef FASTROUTE_HASH_H
#define FASTROUTE_HASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FR_KEY_0 UINT64_C(0x243F6A8885A308D3)
#define FR_KEY_1 UINT64_C(0x13198A2E03707344)
#define FR_KEY_2 UINT64_C(0xA4093822299F31D0)

static inline uint64_t fr_fold(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t fr_read_8(const unsigned char *p) {
    uint64_t word;
    memcpy(&word, p, 8);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word;
}

static inline uint64_t fr_read_4(const unsigned char *p) {
    uint32_t word;
    memcpy(&word, p, 4);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap32(word);
#endif
    return word;
}

/* The finaliser of splitmix64 (Steele et al. 2014), a bijection. */
static inline uint64_t fr_mix(uint64_t z) {
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

static inline uint64_t fr_hash(const unsigned char *p, size_t length) {
    uint64_t state = FR_KEY_0 ^ length;
    uint64_t low = 0, high = 0;
    size_t left = length;
    for (; left > 16; p += 16, left -= 16)
        state = fr_fold(fr_read_8(p) ^ FR_KEY_1, fr_read_8(p + 8) ^ state);
    /* The last 1 to 16 bytes as two words that overlap rather than reach outside the slice. */
    if (left >= 8) {
        low = fr_read_8(p);
        high = fr_read_8(p + left - 8);
    } else if (left >= 4) {
        low = fr_read_4(p);
        high = fr_read_4(p + left - 4);
    } else if (left > 0) {
        low = p[0];
        high = (uint64_t)p[left / 2] << 8 | p[left - 1];
    }
    state = fr_fold(low ^ FR_KEY_1, high ^ state);
    return fr_fold(state ^ FR_KEY_2, length ^ FR_KEY_0);
}

#endif
