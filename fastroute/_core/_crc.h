/* CRC-32 of ISO 3309 (polynomial 0xEDB88320 reflected), eight bytes a step (M. Kounavis, F. Berry 2005, "slicing"). */
#ifndef FASTROUTE_CRC_H
#define FASTROUTE_CRC_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static uint32_t fr_crc_table[8][256];

static inline void fr_crc_prepare(void) {
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++) value = value & 1 ? value >> 1 ^ UINT32_C(0xEDB88320) : value >> 1;
        fr_crc_table[0][byte] = value;
    }
    for (int row = 1; row < 8; row++)
        for (int byte = 0; byte < 256; byte++) {
            uint32_t before = fr_crc_table[row - 1][byte];
            fr_crc_table[row][byte] = before >> 8 ^ fr_crc_table[0][before & 0xFF];
        }
}

/* Goes on from the checksum of what stands before, 0 for nothing. */
static inline uint32_t fr_crc(uint32_t before, const unsigned char *p, size_t size) {
    uint32_t crc = before ^ 0xFFFFFFFF;
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    while (size >= 8) {
        uint32_t low, high;
        memcpy(&low, p, 4);
        memcpy(&high, p + 4, 4);
        low ^= crc;
        crc = fr_crc_table[7][low & 0xFF] ^ fr_crc_table[6][low >> 8 & 0xFF] ^ fr_crc_table[5][low >> 16 & 0xFF] ^
              fr_crc_table[4][low >> 24] ^ fr_crc_table[3][high & 0xFF] ^ fr_crc_table[2][high >> 8 & 0xFF] ^
              fr_crc_table[1][high >> 16 & 0xFF] ^ fr_crc_table[0][high >> 24];
        p += 8;
        size -= 8;
    }
#endif
    while (size--) crc = crc >> 8 ^ fr_crc_table[0][(crc ^ *p++) & 0xFF];
    return crc ^ 0xFFFFFFFF;
}

#endif
