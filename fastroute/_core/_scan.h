/* One pass over a JSON object: checks all of it, notes where the wanted top-level members are.
 *
 * No recursion, no Python, no allocation but one for each top-level key written with escapes: safe without the GIL.
 * The conventions of _scan_tokens.h hold here too.
 */
#ifndef FASTROUTE_SCAN_H
#define FASTROUTE_SCAN_H

#include "_scan_tokens.h"

/* The bounds of _jsonscan_errors.py. */
#define FR_MAX_FIELDS 64
#define FR_MAX_DEPTH 1024
#define FR_MAX_MEMBERS 1024

#define FR_BUCKETS 256
#define FR_NO_KEY 0xFFFF

typedef struct {
    const uint8_t *name;
    size_t length;
    uint64_t hash;
} fr_field;

typedef struct {
    int kind;
    size_t start, end;
} fr_span;

typedef struct {
    const uint8_t *name; /* in the body, or in `owned` where it was written with escapes */
    size_t length;
    uint64_t hash;
    uint8_t *owned;
    uint16_t next; /* the next key in the same bucket */
} fr_key;

typedef struct {
    fr_source source;
    /* in */
    const fr_field *fields;
    size_t field_count, max_depth;
    /* out */
    fr_span spans[FR_MAX_FIELDS];
    size_t open, members;
    size_t key_end; /* of the repeated key, closing quote included */
    /* the keys met so far; entries past `members` are not initialised */
    uint16_t buckets[FR_BUCKETS];
    fr_key keys[FR_MAX_MEMBERS];
    size_t owned_keys;
} fr_scan;

/* ---------------------------------------------------------------- structure */

static inline int fr_is_space(uint8_t byte)
{
    return byte == ' ' || byte == '\n' || byte == '\r' || byte == '\t';
}

static inline const uint8_t *fr_ws(const uint8_t *p)
{
    while (fr_is_space(*p))
        p++;
    return p;
}

static const uint8_t *fr_scalar(fr_source *source, const uint8_t *p, int *kind)
{
    int escaped;
    switch (*p) {
    case '"':
        p = fr_string(source, p + 1, &escaped);
        *kind = escaped ? FR_STRING_ESCAPED : FR_STRING;
        return p;
    case '-': case '0': case '1': case '2': case '3': case '4':
    case '5': case '6': case '7': case '8': case '9':
        *kind = FR_NUMBER;
        return fr_number(source, p);
    case 't':
        *kind = FR_TRUE;
        return fr_literal(source, p, "true", 4);
    case 'f':
        *kind = FR_FALSE;
        return fr_literal(source, p, "false", 5);
    case 'n':
        *kind = FR_NULL;
        return fr_literal(source, p, "null", 4);
    default:
        return fr_unexpected(source, p);
    }
}

/* A key and its colon; the result is at the value. */
static const uint8_t *fr_nested_key(fr_source *source, const uint8_t *p)
{
    int escaped;
    if (*p != '"')
        return fr_unexpected(source, p);
    p = fr_string(source, p + 1, &escaped);
    if (!p)
        return NULL;
    p = fr_ws(p);
    return *p == ':' ? fr_ws(p + 1) : fr_unexpected(source, p);
}

/* p is at the bracket that opens a member's value. One bit per open container says whether it is an object. */
static const uint8_t *fr_container(fr_scan *scan, const uint8_t *p)
{
    uint64_t objects[FR_MAX_DEPTH / 64] = {0};
    size_t depth = 1; /* the top-level object */
    int in_object = 0, kind;
    for (;;) { /* p is at a value */
        if (*p == '{' || *p == '[') {
            if (depth++ == scan->max_depth)
                return fr_fail(&scan->source, FR_TOO_DEEP, p);
            uint64_t bit = 1ULL << (depth - 1) % 64, *word = &objects[(depth - 1) / 64];
            in_object = *p == '{';
            *word = in_object ? *word | bit : *word & ~bit;
            p = fr_ws(p + 1);
            if (*p != (in_object ? '}' : ']')) {
                p = in_object ? fr_nested_key(&scan->source, p) : p;
                if (!p)
                    return NULL;
                continue;
            }
        } else {
            p = fr_scalar(&scan->source, p, &kind);
            if (!p)
                return NULL;
            p = fr_ws(p);
        }
        while (*p == (in_object ? '}' : ']')) { /* p is after a value, or at the end of an empty container */
            if (--depth == 1)
                return p + 1;
            in_object = objects[(depth - 1) / 64] >> (depth - 1) % 64 & 1;
            p = fr_ws(p + 1);
        }
        if (*p != ',')
            return fr_unexpected(&scan->source, p);
        p = fr_ws(p + 1);
        p = in_object ? fr_nested_key(&scan->source, p) : p;
        if (!p)
            return NULL;
    }
}

static const uint8_t *fr_value(fr_scan *scan, const uint8_t *p, int *kind)
{
    if (*p != '{' && *p != '[')
        return fr_scalar(&scan->source, p, kind);
    *kind = *p == '{' ? FR_OBJECT : FR_ARRAY;
    return fr_container(scan, p);
}

/* ---------------------------------------------------------------- top-level keys */

static inline uint64_t fr_mix(uint64_t x)
{
    x *= 0x9E3779B97F4A7C15ULL;
    return x ^ x >> 32;
}

/* Spreads keys over the buckets; a client who finds collisions gains one comparison per key met, of at most 1,024. */
static uint64_t fr_hash(const uint8_t *p, size_t length)
{
    uint64_t hash = length, tail = 0;
    for (; length > 8; p += 8, length -= 8)
        hash = fr_mix(hash ^ fr_load8(p));
    if (length >= 4)
        tail = fr_load4(p) | fr_load4(p + length - 4) << 32;
    else if (length)
        tail = p[0] | (uint64_t)p[length / 2] << 8 | (uint64_t)p[length - 1] << 16;
    return fr_mix(hash ^ tail);
}

static inline int fr_same(const fr_key *key, const uint8_t *name, size_t length, uint64_t hash)
{
    return key->hash == hash && key->length == length && memcmp(key->name, name, length) == 0;
}

/* Fill `key` with the content of the key whose quotes are at start and end - 1. Returns 0 for want of memory. */
static int fr_read_key(fr_scan *scan, fr_key *key, const uint8_t *start, const uint8_t *end, int escaped)
{
    key->name = start + 1;
    key->length = (size_t)(end - start) - 2;
    key->owned = NULL;
    if (escaped) {
        key->owned = malloc(key->length);
        if (!key->owned)
            return 0;
        scan->owned_keys++;
        key->length = fr_unescape(key->owned, start + 1, end - 1);
        key->name = key->owned;
    }
    key->hash = fr_hash(key->name, key->length);
    return 1;
}

/* Note the key from start to end, quotes included, and find the field it is. Returns the place for the field's span,
 * or NULL where the key is not wanted or a fault was noted. */
static fr_span *fr_add_key(fr_scan *scan, const uint8_t *start, const uint8_t *end, int escaped)
{
    if (scan->members == FR_MAX_MEMBERS) {
        fr_fail(&scan->source, FR_TOO_MANY, start);
        return NULL;
    }
    fr_key *key = &scan->keys[scan->members];
    if (!fr_read_key(scan, key, start, end, escaped)) {
        fr_fail(&scan->source, FR_NO_MEMORY, start);
        return NULL;
    }
    uint16_t *bucket = &scan->buckets[key->hash % FR_BUCKETS];
    key->next = *bucket;
    *bucket = (uint16_t)scan->members++;
    for (size_t i = key->next; i != FR_NO_KEY; i = scan->keys[i].next) {
        if (fr_same(&scan->keys[i], key->name, key->length, key->hash)) {
            fr_fail(&scan->source, FR_DUPLICATE, start);
            scan->key_end = (size_t)(end - scan->source.body);
            return NULL;
        }
    }
    for (size_t i = 0; i < scan->field_count; i++) {
        if (fr_same(key, scan->fields[i].name, scan->fields[i].length, scan->fields[i].hash))
            return &scan->spans[i];
    }
    return NULL;
}

static void fr_free_keys(fr_scan *scan)
{
    for (size_t i = 0; scan->owned_keys && i < scan->members; i++)
        free(scan->keys[i].owned);
}

/* ---------------------------------------------------------------- the top-level object */

/* p is at the first key; the result is after the object's closing brace. */
static const uint8_t *fr_members(fr_scan *scan, const uint8_t *p)
{
    for (;;) {
        int escaped, kind;
        const uint8_t *start = p;
        if (*p != '"')
            return fr_unexpected(&scan->source, p);
        p = fr_string(&scan->source, p + 1, &escaped);
        if (!p)
            return NULL;
        fr_span *span = fr_add_key(scan, start, p, escaped);
        if (scan->source.reason)
            return NULL;
        p = fr_ws(p);
        if (*p != ':')
            return fr_unexpected(&scan->source, p);
        start = fr_ws(p + 1);
        p = fr_value(scan, start, &kind);
        if (!p)
            return NULL;
        if (span)
            *span = (fr_span){kind, (size_t)(start - scan->source.body), (size_t)(p - scan->source.body)};
        p = fr_ws(p);
        if (*p == '}')
            return p + 1;
        if (*p != ',')
            return fr_unexpected(&scan->source, p);
        p = fr_ws(p + 1);
    }
}

/* The result is after the top-level opening brace. */
static const uint8_t *fr_enter(fr_scan *scan)
{
    const uint8_t *p = fr_ws(scan->source.body);
    if (*p == '{')
        return p + 1;
    if (p == scan->source.end)
        return fr_fail(&scan->source, FR_EMPTY, p);
    if (strchr("[\"-0123456789tfn", *p) && *p)
        return fr_fail(&scan->source, FR_NOT_OBJECT, p);
    if (scan->source.end - p >= 3 && memcmp(p, "\xEF\xBB\xBF", 3) == 0)
        return fr_fail(&scan->source, FR_BYTE_ORDER_MARK, p);
    return fr_unexpected(&scan->source, p);
}

/* Scan body[0:length] for the fields, whose hashes are set. The result is in source.reason (FR_OK or a fault), spans,
 * open and members. *scan need not be initialised: it is 43 KB, most of it never looked at. */
static void fr_scan_body(fr_scan *scan, const char *body, size_t length, const fr_field *fields, size_t field_count,
                         size_t max_depth)
{
    scan->source.body = (const uint8_t *)body;
    scan->source.end = scan->source.body + length;
    scan->fields = fields;
    scan->field_count = field_count;
    scan->max_depth = max_depth;
    memset(scan->spans, 0, field_count * sizeof scan->spans[0]);
    memset(scan->buckets, 0xFF, sizeof scan->buckets);
    scan->members = scan->open = scan->owned_keys = scan->source.offset = scan->key_end = 0;
    scan->source.reason = FR_OK;
    const uint8_t *p = fr_enter(scan);
    if (p) {
        scan->open = (size_t)(p - scan->source.body);
        p = fr_ws(p);
        p = *p == '}' ? p + 1 : fr_members(scan, p);
    }
    if (p) {
        p = fr_ws(p);
        if (p != scan->source.end)
            fr_fail(&scan->source, FR_UNEXPECTED, p);
    }
    fr_free_keys(scan);
}

#endif
