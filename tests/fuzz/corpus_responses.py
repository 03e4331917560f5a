"""Responses that a provider, or somebody between it and us, may send: one case for each way to frame an answer.

The classes are those of the literature on response smuggling and desynchronisation: two lengths, a length and a
coding, codings that are not quite `chunked`, numbers that two parsers read differently, line ends that are not CRLF,
folded lines, control characters, answers that have no body by rule but bytes all the same. Every case says what RFC
9112 makes of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

MAX_HEAD = 65_536


@dataclass(frozen=True, slots=True)
class Case:
    """Bytes of one connection after a request, closed by the peer behind the last one.

    kind: the kind of error the exchange ends with, "" if it is complete. status, body: of the answer, if it is to be
    accepted. reusable: another exchange may follow, judged before the peer closes. head: the request was a HEAD.
    rest: bytes of `raw` that are behind the end of the answer.
    """

    name: str
    raw: bytes
    kind: str = ""
    status: int = 200
    body: bytes = b""
    reusable: bool = True
    head: bool = False
    rest: int = 0


def response(*fields: bytes, body: bytes = b"", line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """Return an answer with `fields` and `body` as they are."""
    return b"\r\n".join([line, *fields]) + b"\r\n\r\n" + body


def chunks(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """Return `pieces` in the chunked coding."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


CHUNKED = b"Transfer-Encoding: chunked"
FIVE = b"Content-Length: 5"


def cases() -> list[Case]:
    """Return every case; names are unique."""
    rows = (_plain, _interim, _bodyless, _status_lines, _fields, _lengths, _codings, _connections)
    more = (_chunk_sizes, _chunk_framing, _trailers, _cut_off, _after_the_end, _sizes)
    return [case for row in rows + more for case in row()]


def _malformed(name: str, raw: bytes) -> Case:
    return Case(name, raw, "malformed", reusable=False)


# === What is well framed ===


def _plain() -> Iterator[Case]:
    yield Case("length", response(FIVE, body=b"hello"), body=b"hello")
    yield Case("length-zero", response(b"Content-Length: 0"))
    yield Case("length-leading-zeros", response(b"Content-Length: 0005", body=b"hello"), body=b"hello")
    yield Case("length-blanks", response(b"Content-Length:\t 5 \t", body=b"hello"), body=b"hello")
    yield Case("chunked", response(CHUNKED, body=chunks(b"hel", b"lo")), body=b"hello")
    yield Case("chunked-empty", response(CHUNKED, body=chunks()))
    yield Case("chunked-capitals", response(b"TRANSFER-ENCODING: Chunked", body=chunks(b"x")), body=b"x")
    yield Case("chunked-binary", response(CHUNKED, body=chunks(b"\r\n0\r\n\r\n", b"\0")), body=b"\r\n0\r\n\r\n\0")
    yield Case("until-close", response(body=b"hello"), body=b"hello", reusable=False)
    yield Case("until-close-empty", response(), reusable=False)
    old = b"HTTP/1.0 200 OK"
    yield Case("1.0-until-close", response(line=old, body=b"hello"), body=b"hello", reusable=False)
    yield Case("1.0-length", response(FIVE, line=old, body=b"hello"), body=b"hello", reusable=False)
    kept = response(FIVE, b"Connection: Keep-Alive", line=old, body=b"hello")
    yield Case("1.0-keep-alive", kept, body=b"hello")
    vague = response(b"Connection: keep-alive", line=old, body=b"hello")
    yield Case("1.0-keep-alive-without-length", vague, body=b"hello", reusable=False)


def _interim() -> Iterator[Case]:
    final = response(FIVE, body=b"hello")
    going_on = response(line=b"HTTP/1.1 100 Continue")
    hints = response(b"Link: </a>; rel=preload", FIVE, line=b"HTTP/1.1 103 Early Hints")
    yield Case("100-then-final", going_on + final, body=b"hello")
    yield Case("103-then-final", hints + final, body=b"hello")
    yield Case("many-interim", going_on * 10 + final, body=b"hello")
    yield _malformed("too-many-interim", going_on * 11 + final)
    yield _malformed("switching-protocols", response(b"Upgrade: x", line=b"HTTP/1.1 101 Switching Protocols") + final)
    yield Case("only-interim", going_on, "truncated", reusable=False)
    yield _malformed("interim-then-garbage", going_on + b"hello\r\n\r\n")


def _bodyless() -> Iterator[Case]:
    for status in (204, 304):
        line = b"HTTP/1.1 %d No Body" % status
        yield Case(f"{status}", response(line=line), status=status)
        yield Case(f"{status}-length", response(FIVE, line=line), status=status)
        yield Case(f"{status}-chunked", response(CHUNKED, line=line), status=status)
        raw = response(FIVE, line=line, body=b"hello")
        yield Case(f"{status}-with-body", raw, status=status, reusable=False, rest=5)
        raw = response(CHUNKED, line=line, body=chunks(b"x"))
        yield Case(f"{status}-with-chunks", raw, status=status, reusable=False, rest=11)
    yield Case("head-length", response(FIVE), head=True)
    yield Case("head-chunked", response(CHUNKED), head=True)
    yield Case("head-with-body", response(FIVE, body=b"hello"), head=True, reusable=False, rest=5)


# === Heads that are not quite one ===


def _status_lines() -> Iterator[Case]:
    good = (b"HTTP/1.1 200 ", b"HTTP/1.1 200 all \xe9 is\tright", b"HTTP/1.1 200 200 300 HTTP/1.1")
    for at, line in enumerate(good):
        yield Case(f"status-line-good-{at}", response(FIVE, line=line, body=b"hello"), body=b"hello")
    for status in (201, 299, 400, 429, 500, 529, 599):
        raw = response(FIVE, line=b"HTTP/1.1 %d Word" % status, body=b"hello")
        yield Case(f"status-{status}", raw, status=status, body=b"hello")
    lines = [
        *(b"HTTP/1.1 200", b"HTTP/1.1  200 OK", b"HTTP/1.1\t200 OK", b" HTTP/1.1 200 OK", b"http/1.1 200 OK"),
        *(b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 200OK", b"HTTP/1.1 +20 OK", b"HTTP/1.1 -20 OK"),
        *(b"HTTP/1.1 2x0 OK", b"HTTP/1.1 0x2 OK", b"HTTP/1.1 000 OK", b"HTTP/1.1 099 OK", b"HTTP/1.1 99 OK"),
        *(b"HTTP/1.1 600 OK", b"HTTP/1.1 999 OK", b"HTTP/1.1 1000 OK", b"HTTP/1.2 200 OK", b"HTTP/2 200 OK"),
        *(b"HTTP/2.0 200 OK", b"HTTP/0.9 200 OK", b"HTTP/11 200 OK", b"HTTP/1.10 200 OK", b"HTTP/1. 200 OK"),
        *(b"HTTP/1.1 200 O\0K", b"HTTP/1.1 200 O\rK", b"HTTP/1.1 200 O\x7fK", b"HTTP/1.1 2\xb20 OK"),
        *(b"ICY 200 OK", b"SSH-2.0-x", b"<html>", b"hello", b"", b"\0", b"HTTP/1.1", b"HTTP", b"\xef\xbb\xbfHTTP/1.1"),
        *(b"200 OK", b"POST / HTTP/1.1", b"HTTP/1.1 200 OK\n", b"HTTP/1.1 200\xa0OK", b"\r\nHTTP/1.1 200 OK"),
    ]
    for at, line in enumerate(lines):
        yield _malformed(f"status-line-{at}", response(FIVE, line=line, body=b"hello"))
    yield _malformed("no-head-at-all", b"\r\n\r\nhello")
    yield _malformed("one-blank-line", b"\r\n" + response(FIVE, body=b"hello"))
    yield _malformed("lf-only", response(FIVE, body=b"hello").replace(b"\r\n", b"\n"))
    yield _malformed("lf-after-status-line", response(FIVE).replace(b"OK\r\n", b"OK\n"))
    yield _malformed("lf-after-field", b"HTTP/1.1 200 OK\r\nA: b\nContent-Length: 5\r\n\r\nhello")
    yield _malformed("blank-line-lf", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello")
    yield _malformed("blank-line-cr", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\rhello\r\n\r\n")
    yield _malformed("cr-cr-lf", b"HTTP/1.1 200 OK\r\nA: b\r\r\nContent-Length: 5\r\n\r\nhello")


def _fields() -> Iterator[Case]:
    good = [
        *(b"A:", b"A:b", b"A: \t b \t", b"A: b\tc", b"A: \xe9\xff\x80", b"!#$%&'*+-.^_`|~09azAZ: b", b"A: :b: c"),
        *(b"n" * 128 + b": b", b"A: " + b"v" * 60_000, b"Set-Cookie: a=b\r\nSet-Cookie: c=d", b"0: 1"),
    ]
    for at, field in enumerate(good):
        yield Case(f"field-good-{at}", response(field, FIVE, body=b"hello"), body=b"hello")
    bad = [
        *(b"A : b", b"A\t: b", b" A: b", b"\tA: b", b": b", b"A", b"A b: c", b"A;b: c", b"A(b): c", b"\xe9: b"),
        *(b"A: b\r\n c", b"A: b\r\n\tc", b"A: b\r\n \r\nB: c", b"A: \0", b"A: b\0c", b"A: b\x0bc", b"A: b\x1fc"),
        *(b"A: b\x7fc", b"A: b\rc", b"A\r: b", b"\0A: b", b"A\0: b", b'"A": b', b"[A]: b", b"A@b: c", b"{}: c"),
        *(b"n" * 129 + b": b", b"A:\r b", b"HTTP/1.1 200 OK", b"A\x80: b", b"A: \x08", b"=: b", b"A,B: c"),
    ]
    for at, field in enumerate(bad):
        yield _malformed(f"field-{at}", response(field, FIVE, body=b"hello"))


# === Two parsers, two lengths ===


def _lengths() -> Iterator[Case]:
    values = [
        *(
            b"",
            b"+5",
            b"-5",
            b"-1",
            b"-0",
            b"0x5",
            b"5_0",
            b"5 5",
            b"5,5",
            b"5, 5",
            b"5;",
            b"5.0",
            b"5e0",
            b"1e1",
            b"five",
        ),
        *(
            b"\xb5",
            "５".encode(),
            b"5\t5",
            b"05h",
            b'"5"',
            b"5\xa0",
            b"1" * 19,
            b"9" * 400,
            b"0" * 19 + b"5",
            b"5,",
            b",5",
        ),
        *(b"18446744073709551621", b"9223372036854775813", b"4294967301" * 2),
    ]
    for at, value in enumerate(values):
        yield _malformed(f"length-{at}", response(b"Content-Length: " + value, body=b"hello"))
    yield _malformed("length-twice-same", response(FIVE, FIVE, body=b"hello"))
    yield _malformed("length-twice", response(FIVE, b"Content-Length: 6", body=b"hello!"))
    yield _malformed("length-twice-capitals", response(FIVE, b"CONTENT-LENGTH: 0", body=b"hello"))
    yield _malformed("length-and-empty-length", response(FIVE, b"Content-Length:", body=b"hello"))
    yield _malformed("length-then-coding", response(FIVE, CHUNKED, body=chunks(b"hello")))
    yield _malformed("coding-then-length", response(CHUNKED, FIVE, body=chunks(b"hello")))
    yield _malformed("length-zero-and-coding", response(b"Content-Length: 0", CHUNKED, body=chunks(b"hello")))
    yield Case("length-look-alike", response(b"Content_Length: 9", FIVE, body=b"hello"), body=b"hello")


def _codings() -> Iterator[Case]:
    values = [
        *(b"", b"gzip", b"gzip, chunked", b"chunked, gzip", b"chunked, chunked", b"chunked,", b",chunked", b"identity"),
        *(b"chunked;q=1", b"xchunked", b"chunkedx", b"chunked\xa0", b'"chunked"', b"chun ked", b"identity, chunked"),
        *(b"chunked identity", b"cow", b"\xc4\xb1chunked", b"deflate", b"compress", b"c", b"chunke\xe4"),
    ]
    for at, value in enumerate(values):
        yield _malformed(f"coding-{at}", response(b"Transfer-Encoding: " + value, body=chunks(b"hello")))
    for at, value in enumerate((b"\x0bchunked", b"chunked\0", b"\r\n chunked", b"\x0cchunked")):
        yield _malformed(f"coding-control-{at}", response(b"Transfer-Encoding: " + value, body=chunks(b"hello")))
    yield _malformed("coding-twice", response(CHUNKED, CHUNKED, body=chunks(b"hello")))
    yield _malformed("coding-and-identity", response(CHUNKED, b"Transfer-Encoding: identity", body=chunks(b"hello")))
    yield _malformed("coding-space-colon", response(b"Transfer-Encoding : chunked", FIVE, body=b"hello"))
    yield _malformed("coding-1.0", response(CHUNKED, line=b"HTTP/1.0 200 OK", body=chunks(b"hello")))
    alike = response(b"Transfer_Encoding: chunked", b"X-Transfer-Encoding: chunked", FIVE, body=b"hello")
    yield Case("coding-look-alike", alike, body=b"hello")


def _connections() -> Iterator[Case]:
    for value, reusable in (
        *(
            (b"close", False),
            (b"Close", False),
            (b"keep-alive, close", False),
            (b"close,x", False),
            (b"x,\tclose", False),
        ),
        *((b"keep-alive", True), (b"closed", True), (b"x-close", True), (b"", True), (b",,", True)),
    ):
        raw = response(b"Connection: " + value, FIVE, body=b"hello")
        yield Case(f"connection-{value!r}", raw, body=b"hello", reusable=reusable)
    twice = response(b"Connection: keep-alive", b"Connection: close", FIVE, body=b"hello")
    yield Case("connection-twice", twice, body=b"hello", reusable=False)
    named = response(b"Connection: content-length", FIVE, body=b"hello")
    yield Case("connection-names-the-length", named, body=b"hello")


# === Chunks ===


def _chunk_sizes() -> Iterator[Case]:
    for at, size in enumerate((b"5", b"05", b"0000000000000005", b"5;a", b"5;a=b", b'5;a="b;c"', b"5;" + b"e" * 256)):
        body = size + b"\r\nhello\r\n0\r\n\r\n"
        yield Case(f"chunk-size-good-{at}", response(CHUNKED, body=body), body=b"hello")
    yield Case(
        "chunk-size-hex",
        response(CHUNKED, body=b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"),
        body=b"0123456789" * 2,
    )
    yield Case("chunk-size-zeros", response(CHUNKED, body=b"0000\r\n\r\n"))
    sizes = [
        *(
            b"0x5",
            b"-1",
            b"-5",
            b"+5",
            b"5_0",
            b" 5",
            b"5 ",
            b"5\t",
            b"\t5",
            b"",
            b";a",
            b"g",
            b"5g",
            b"5,",
            b"5.",
            b"5h",
        ),
        *(b"0" * 16 + b"5", b"ffffffffffffffff", b"8000000000000000", b"4000000000000001", b"10000000000000005"),
        *(b"5;\0", b"5;a\x7f", b"5;" + b"e" * 257, b"5\0", "５".encode(), b"\xb5", b"5\r", b"5;a\r", b"5 ;a", b"\r\n5"),
    ]
    for at, size in enumerate(sizes):
        yield _malformed(f"chunk-size-{at}", response(CHUNKED, body=size + b"\r\nhello\r\n0\r\n\r\n"))
    # Not quite RFC 9112, which wants a name behind the semicolon; nothing can be read into it.
    yield Case("chunk-size-empty-extension", response(CHUNKED, body=b"5;\r\nhello\r\n0\r\n\r\n"), body=b"hello")
    huge = response(CHUNKED, body=b"4000000000000000\r\nhello")
    yield Case("chunk-size-larger-than-memory", huge, "truncated", body=b"hello", reusable=False)


def _chunk_framing() -> Iterator[Case]:
    bodies = [
        *(b"5\nhello\r\n0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello\r0\r\n\r\n", b"5\r\nhello0\r\n\r\n"),
        *(b"4\r\nhello\r\n0\r\n\r\n", b"5\r\nhello!\r\n0\r\n\r\n", b"5\r\nhello\r\n0\n\r\n", b"5\r\nhello\r\n0\r\n\n"),
        *(b"5\r\nhello\r\n\r\n0\r\n\r\n", b"5\r\nhello\r\r\n0\r\n\r\n", b"5;a\nhello\r\n0\r\n\r\n", b"hello"),
        *(b"5\r\nhello\r\n0\r\n\rx", b"5;\n", b"\r\n", b"\n0\r\n\r\n", b"5\r5hello\r\n0\r\n\r\n"),
    ]
    for at, body in enumerate(bodies):
        yield _malformed(f"chunk-framing-{at}", response(CHUNKED, body=body))


def _trailers() -> Iterator[Case]:
    for at, lines in enumerate(
        (b"A: b\r\n", b"A: b\r\nB: c\r\n", b"a:\r\n", b"A: \xe9\t\r\n", b"A: " + b"v" * 8_000 + b"\r\n")
    ):
        raw = response(CHUNKED, body=chunks(b"hello", end=b"0\r\n" + lines + b"\r\n"))
        yield Case(f"trailer-good-{at}", raw, body=b"hello")
    steering = b"Content-Length: 9\r\nTransfer-Encoding: gzip\r\nConnection: close\r\n"
    raw = response(CHUNKED, body=chunks(b"hello", end=b"0\r\n" + steering + b"\r\n"))
    yield Case("trailer-is-no-header", raw, body=b"hello")
    bad = [
        *(b" A: b\r\n", b"\tA: b\r\n", b"A: b\0\r\n", b"A: b\n", b"A: b\r\r\n", b": b\r\n", b"A: b\rB: c\r\n"),
        *(b"A\r\n", b"A b: c\r\n", b"A : b\r\n", b"A\xe9: b\r\n", b"HTTP/1.1 200 OK\r\n"),
        *(b"\0: b\r\n", b"A: " + b"v" * 8_192 + b"\r\n", b"A: b\r\n" * 2_000),
    ]
    for at, lines in enumerate(bad):
        yield _malformed(f"trailer-{at}", response(CHUNKED, body=chunks(b"hello", end=b"0\r\n" + lines + b"\r\n")))


# === Ends ===


def _cut_off() -> Iterator[Case]:
    yield Case("nothing", b"", "closed", reusable=False)
    whole = response(b"A: b", b"Content-Length: 9", body=b"hello")
    for at in (1, 8, 12, 17, 18, len(whole) - 6):
        yield Case(f"head-cut-{at}", whole[:at], "truncated", reusable=False)
    yield Case("length-cut", whole, "truncated", body=b"hello", reusable=False)
    yield Case("length-cut-at-once", whole[:-5], "truncated", reusable=False)
    for at, body in enumerate(
        (b"", b"5", b"5\r", b"5\r\n", b"5\r\nhel", b"5;a", b"0", b"0\r\n", b"0\r\n\r", b"0\r\nA: b\r\n")
    ):
        kept = b"hel" if body.endswith(b"hel") else b""
        yield Case(f"chunks-cut-{at}", response(CHUNKED, body=body), "truncated", body=kept, reusable=False)
    for at, body in enumerate((b"5\r\nhello", b"5\r\nhello\r", b"5\r\nhello\r\n")):
        raw = response(CHUNKED, body=body)
        yield Case(f"chunks-cut-after-data-{at}", raw, "truncated", body=b"hello", reusable=False)


def _after_the_end() -> Iterator[Case]:
    second = response(FIVE, body=b"other")
    for at, rest in enumerate((b"\r\n", b"x", second, b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")):
        tail = len(rest)
        whole = response(FIVE, body=b"hello")
        yield Case(f"length-and-more-{at}", whole + rest, body=b"hello", reusable=False, rest=tail)
        whole = response(CHUNKED, body=chunks(b"hello"))
        yield Case(f"chunks-and-more-{at}", whole + rest, body=b"hello", reusable=False, rest=tail)
        yield Case(f"no-body-and-more-{at}", response(b"Content-Length: 0") + rest, reusable=False, rest=tail)


def _sizes() -> Iterator[Case]:
    fields = [b"F%d: v" % n for n in range(255)]
    yield Case("256-fields", response(*fields, FIVE, body=b"hello"), body=b"hello")
    yield _malformed("257-fields", response(*fields, b"A: b", FIVE, body=b"hello"))
    yield _malformed("10000-fields", response(*(b"A: b" for _ in range(10_000)), FIVE, body=b"hello"))
    bare = len(response(b"A: ", FIVE))
    yield Case("largest-head", response(b"A: " + b"v" * (MAX_HEAD - bare), FIVE, body=b"hello"), body=b"hello")
    yield _malformed("head-too-large", response(b"A: " + b"v" * (MAX_HEAD - bare + 1), FIVE, body=b"hello"))
    yield _malformed("one-MiB-field", response(b"A: " + b"v" * (1 << 20), FIVE, body=b"hello"))
    yield _malformed("endless-head", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000)
    yield _malformed("endless-status-line", b"HTTP/1.1 200 " + b"x" * 100_000)
