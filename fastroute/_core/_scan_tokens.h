/* Strings, numbers and literals of JSON (RFC 8259), read from bytes and checked; see _scan.h for the structure.
 *
 * No Python and no allocation: safe without the GIL. Functions read up to the first fault and no further. The byte
 * after the last one must be readable and 0 (a bytes object has it): as 0 is allowed nowhere in JSON, it ends every
 * loop that looks at bytes one by one. Functions that return a pointer return the byte after what they read, or NULL
 * with reason and offset noted.
 */
#ifndef FASTROUTE_SCAN_TOKENS_H
#define FASTROUTE_SCAN_TOKENS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SSE2__) && !defined(FR_NO_SIMD)
#include <emmintrin.h>
#define FR_SSE2 1
#else
#define FR_SSE2 0
#endif

/* MAX_NUMBER_BYTES, the kinds and the reasons of _jsonscan_errors.py. */
#define FR_MAX_NUMBER_BYTES 512

enum fr_kind {
    FR_ABSENT,
    FR_STRING,
    FR_STRING_ESCAPED,
    FR_NUMBER,
    FR_TRUE,
    FR_FALSE,
    FR_NULL,
    FR_OBJECT,
    FR_ARRAY
};

enum fr_reason {
    FR_OK,
    FR_EMPTY,
    FR_NOT_OBJECT,
    FR_TRUNCATED,
    FR_UNEXPECTED,
    FR_BYTE_ORDER_MARK,
    FR_CONTROL,
    FR_ESCAPE,
    FR_SURROGATE,
    FR_BAD_LITERAL,
    FR_BAD_NUMBER,
    FR_TOO_MANY,
    FR_UTF8,
    FR_DUPLICATE,
    FR_TOO_DEEP,
    FR_RANGE,
    FR_NO_MEMORY /* not a fault of the body: MemoryError */
};

/* What is read, and the first fault in it. */
typedef struct {
    const uint8_t *body, *end;
    int reason;
    size_t offset;
} fr_source;

/* ---------------------------------------------------------------- faults */

static const uint8_t *fr_fail(fr_source *source, int reason, const uint8_t *at)
{
    source->reason = reason;
    source->offset = (size_t)(at - source->body);
    return NULL;
}

static const uint8_t *fr_unexpected(fr_source *source, const uint8_t *at)
{
    return fr_fail(source, at == source->end ? FR_TRUNCATED : FR_UNEXPECTED, at);
}

/* ---------------------------------------------------------------- strings */

static inline uint64_t fr_load8(const uint8_t *p)
{
    uint64_t x;
    memcpy(&x, p, 8);
    return x;
}

static inline uint64_t fr_load4(const uint8_t *p)
{
    uint32_t x;
    memcpy(&x, p, 4);
    return x;
}

static inline int fr_is_plain(uint8_t byte)
{
    return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
}

#if FR_SSE2
/* Skip ASCII bytes that mean nothing in a string, 16 at a time. */
static inline const uint8_t *fr_plain_run(const uint8_t *p, const uint8_t *end)
{
    const __m128i quote = _mm_set1_epi8('"'), backslash = _mm_set1_epi8('\\'), space = _mm_set1_epi8(0x20);
    while (end - p >= 16) {
        __m128i x = _mm_loadu_si128((const __m128i *)p);
        /* Signed comparison: bytes from 0x80 are negative, so "less than a space" finds them and control bytes. */
        __m128i special = _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(x, quote), _mm_cmpeq_epi8(x, backslash)),
                                       _mm_cmplt_epi8(x, space));
        unsigned mask = (unsigned)_mm_movemask_epi8(special);
        if (mask)
            return p + __builtin_ctz(mask);
        p += 16;
    }
    while (fr_is_plain(*p))
        p++;
    return p;
}
#else
#define FR_EACH(byte) (0x0101010101010101ULL * (byte))

/* The top bit of each byte of x that is 0; of bytes after such a one it may be set as well. */
static inline uint64_t fr_zero_bytes(uint64_t x)
{
    return (x - FR_EACH(0x01)) & ~x & FR_EACH(0x80);
}

/* Skip ASCII bytes that mean nothing in a string, 8 at a time. */
static inline const uint8_t *fr_plain_run(const uint8_t *p, const uint8_t *end)
{
    while (end - p >= 8) {
        uint64_t x = fr_load8(p);
        uint64_t low = (x - FR_EACH(0x20)) & ~x & FR_EACH(0x80);
        if (low | (x & FR_EACH(0x80)) | fr_zero_bytes(x ^ FR_EACH('"')) | fr_zero_bytes(x ^ FR_EACH('\\')))
            break;
        p += 8;
    }
    while (fr_is_plain(*p))
        p++;
    return p;
}
#endif

static inline int fr_is_tail(uint8_t byte)
{
    return (byte & 0xC0) == 0x80;
}

static inline int fr_between(uint8_t byte, uint8_t low, uint8_t high)
{
    return byte >= low && byte <= high;
}

/* Length of the UTF-8 sequence at p, whose first byte is >= 0x80; 0 if ill-formed (Unicode 15, table 3-7). */
static inline size_t fr_utf8_length(const uint8_t *p)
{
    uint8_t lead = p[0];
    if (lead < 0xC2)
        return 0;
    if (lead < 0xE0)
        return fr_is_tail(p[1]) ? 2 : 0;
    if (lead < 0xF0) {
        uint8_t low = lead == 0xE0 ? 0xA0 : 0x80, high = lead == 0xED ? 0x9F : 0xBF;
        return fr_between(p[1], low, high) && fr_is_tail(p[2]) ? 3 : 0;
    }
    if (lead < 0xF5) {
        uint8_t low = lead == 0xF0 ? 0x90 : 0x80, high = lead == 0xF4 ? 0x8F : 0xBF;
        return fr_between(p[1], low, high) && fr_is_tail(p[2]) && fr_is_tail(p[3]) ? 4 : 0;
    }
    return 0;
}

/* The value of four hexadecimal digits, or -1. */
static inline int32_t fr_hex4(const uint8_t *p)
{
    int32_t value = 0;
    for (int i = 0; i < 4; i++) {
        uint8_t byte = p[i], letter = (uint8_t)(byte | 0x20);
        if (fr_between(byte, '0', '9'))
            value = value << 4 | (byte - '0');
        else if (fr_between(letter, 'a', 'f'))
            value = value << 4 | (letter - 'a' + 10);
        else
            return -1;
    }
    return value;
}

static inline int fr_is_simple_escape(uint8_t byte)
{
    switch (byte) {
    case '"': case '\\': case '/': case 'b': case 'f': case 'n': case 'r': case 't':
        return 1;
    default:
        return 0;
    }
}

/* p is at a backslash. A surrogate must come as a pair: a high one directly followed by a low one. */
static const uint8_t *fr_escape(fr_source *source, const uint8_t *p)
{
    if (p[1] != 'u')
        return fr_is_simple_escape(p[1]) ? p + 2 : fr_fail(source, FR_ESCAPE, p);
    int32_t unit = fr_hex4(p + 2);
    if (unit < 0)
        return fr_fail(source, FR_ESCAPE, p);
    if ((unit & 0xF800) != 0xD800)
        return p + 6;
    if (unit < 0xDC00 && p[6] == '\\' && p[7] == 'u' && (fr_hex4(p + 8) & ~0x3FF) == 0xDC00)
        return p + 12;
    return fr_fail(source, FR_SURROGATE, p);
}

/* p is after the opening quote; the result is after the closing one. */
static const uint8_t *fr_string(fr_source *source, const uint8_t *p, int *escaped)
{
    *escaped = 0;
    for (;;) {
        p = fr_plain_run(p, source->end);
        if (*p == '"')
            return p + 1;
        if (*p == '\\') {
            *escaped = 1;
            p = fr_escape(source, p);
            if (!p)
                return NULL;
        } else if (*p >= 0x80) {
            do {
                size_t length = fr_utf8_length(p);
                if (!length)
                    return fr_fail(source, FR_UTF8, p);
                p += length;
            } while (*p >= 0x80);
        } else {
            return fr_fail(source, p == source->end ? FR_TRUNCATED : FR_CONTROL, p);
        }
    }
}

/* Whether body[start:end] is one JSON string, quotes included; body[length] must be 0. */
static int fr_is_string(const char *body, size_t length, size_t start, size_t end)
{
    fr_source source = {(const uint8_t *)body, (const uint8_t *)body + length, FR_OK, 0};
    int escaped;
    return body[start] == '"' && fr_string(&source, source.body + start + 1, &escaped) == source.body + end;
}

static size_t fr_put_utf8(uint8_t *to, uint32_t point)
{
    if (point < 0x80) {
        to[0] = (uint8_t)point;
        return 1;
    }
    if (point < 0x800) {
        to[0] = (uint8_t)(0xC0 | point >> 6);
        to[1] = (uint8_t)(0x80 | (point & 0x3F));
        return 2;
    }
    if (point < 0x10000) {
        to[0] = (uint8_t)(0xE0 | point >> 12);
        to[1] = (uint8_t)(0x80 | (point >> 6 & 0x3F));
        to[2] = (uint8_t)(0x80 | (point & 0x3F));
        return 3;
    }
    to[0] = (uint8_t)(0xF0 | point >> 18);
    to[1] = (uint8_t)(0x80 | (point >> 12 & 0x3F));
    to[2] = (uint8_t)(0x80 | (point >> 6 & 0x3F));
    to[3] = (uint8_t)(0x80 | (point & 0x3F));
    return 4;
}

static uint8_t fr_simple_escape(uint8_t byte)
{
    switch (byte) {
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    default: return byte; /* itself: quote, backslash, slash */
    }
}

/* Write the content of a checked string (without its quotes) to `to`, which has room for end - p bytes: no escape is
 * shorter than what it stands for. Returns the bytes written. */
static size_t fr_unescape(uint8_t *to, const uint8_t *p, const uint8_t *end)
{
    uint8_t *out = to;
    while (p < end) {
        const uint8_t *stop = memchr(p, '\\', (size_t)(end - p));
        size_t run = (size_t)((stop ? stop : end) - p);
        memcpy(out, p, run);
        out += run;
        p += run;
        if (!stop)
            break;
        if (p[1] != 'u') {
            *out++ = fr_simple_escape(p[1]);
            p += 2;
            continue;
        }
        uint32_t point = (uint32_t)fr_hex4(p + 2);
        p += 6;
        if ((point & 0xFC00) == 0xD800) {
            point = 0x10000 + ((point & 0x3FF) << 10) + ((uint32_t)fr_hex4(p + 2) & 0x3FF);
            p += 6;
        }
        out += fr_put_utf8(out, point);
    }
    return (size_t)(out - to);
}

/* ---------------------------------------------------------------- numbers and literals */

static inline int fr_is_digit(uint8_t byte)
{
    return byte >= '0' && byte <= '9';
}

static inline const uint8_t *fr_digits(const uint8_t *p)
{
    while (fr_is_digit(*p))
        p++;
    return p;
}

/* The decimal exponent written at p (after the 'e'), held within +-99999: far beyond what 512 digits can undo. */
static int fr_exponent(const uint8_t *p, const uint8_t *end)
{
    int negative = *p == '-', value = 0;
    for (p += *p == '-' || *p == '+'; p < end && value < 10000; p++)
        value = value * 10 + (*p - '0');
    return negative ? -value : value;
}

/* Whether a number of `whole` integer digits overflows a double. The point is taken out of the copy that strtod sees,
 * because what strtod takes for a point depends on the locale. */
static int fr_overflows(const uint8_t *start, const uint8_t *end, const uint8_t *exponent, ptrdiff_t whole)
{
    char text[FR_MAX_NUMBER_BYTES + 16];
    size_t length = 0;
    int fraction = 0, in_fraction = 0;
    int power = exponent < end ? fr_exponent(exponent + 1, end) : 0;
    if (whole + power <= 308)
        return 0; /* below 1e308 */
    for (const uint8_t *p = start; p < exponent; p++) {
        if (*p == '.') {
            in_fraction = 1;
            continue;
        }
        fraction += in_fraction;
        text[length++] = (char)*p;
    }
    snprintf(text + length, sizeof text - length, "e%d", power - fraction);
    return isinf(strtod(text, NULL));
}

/* The longest number at p, which is at '-' or a digit; what cannot follow a number is left to the caller. */
static const uint8_t *fr_number(fr_source *source, const uint8_t *p)
{
    const uint8_t *start = p, *whole, *exponent;
    p += *p == '-';
    if (!fr_is_digit(*p))
        return fr_fail(source, FR_BAD_NUMBER, start);
    whole = p;
    p = *p == '0' ? p + 1 : fr_digits(p + 1);
    ptrdiff_t whole_digits = p - whole;
    if (*p == '.' && fr_is_digit(p[1]))
        p = fr_digits(p + 2);
    exponent = p;
    if ((*p | 0x20) == 'e') {
        const uint8_t *power = p + 1;
        power += *power == '+' || *power == '-';
        if (fr_is_digit(*power))
            p = fr_digits(power);
    }
    if (p - start > FR_MAX_NUMBER_BYTES)
        return fr_fail(source, FR_RANGE, start);
    if ((p != exponent || whole_digits > 308) && fr_overflows(start, p, exponent, whole_digits))
        return fr_fail(source, FR_RANGE, start);
    return p;
}

static const uint8_t *fr_literal(fr_source *source, const uint8_t *p, const char *word, size_t length)
{
    if ((size_t)(source->end - p) < length || memcmp(p, word, length) != 0)
        return fr_fail(source, FR_BAD_LITERAL, p);
    return p + length;
}

#endif
