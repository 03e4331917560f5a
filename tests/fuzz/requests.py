"""Requests that no well-meaning client sends, each with the answers that are right.

The numbers in the names are the rows of the project's table of bad inputs: 1-40 framing and HTTP/1.1, 41-61
JSON and the meaning of the API, 64 credentials. Rows about many connections (36, 37) are not here. What every
dialect is to refuse stands for each of them in `_dialects`.
`{host}` and `{key}` in the bytes stand for the gateway's authority and for a key it knows. Every request is
otherwise a good one, so that a gateway which overlooks the defect would serve it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

GOOD_MODEL = "m-good"
GOOD_BODY = b'{"model":"m-good","messages":[{"role":"user","content":"hi"}]}'
CHAT = b"/v1/chat/completions"
MESSAGES = b"/v1/messages"
GENERATE = b"/v1beta/models/m-good:generateContent"
#: Of each dialect: a path, and a body that is good there.
DIALECTS = {
    "openai": (CHAT, GOOD_BODY),
    "anthropic": (MESSAGES, b'{"max_tokens":8,' + GOOD_BODY[1:]),
    "gemini": (GENERATE, b'{"contents":[{"role":"user","parts":[{"text":"hi"}]}]}'),
}
AUTH = b"Authorization: Bearer {key}"
JSON = b"Content-Type: application/json"
#: A value that must never reach a provider, whichever way it came in.
CANARY = b"canary.invalid"
#: The limits the cases are made for, as `server.limits` of the gateway's configuration.
LIMITS = {"max_body_bytes": 1 << 20, "header_timeout_ms": 1500, "body_timeout_ms": 1500}


@dataclass(frozen=True, slots=True)
class BadRequest:
    """One connection's worth of bytes.

    expect: acceptable statuses; empty where the connection is to be closed without an answer.
    closes: whether the connection must end afterwards (True), must go on and answer another request (False), or
    either (None).
    silent: closing without an answer is right as well. ours: fastroute itself answers in every lane (not the HTTP
    server under it), so an error must be JSON in the dialect of the path. reaches: the request may be forwarded; it
    must arrive well-framed and without the canary. half_close: the client sends FIN after the bytes. param:
    the field that the error must name. code: its word for what is wrong. interim: an informational answer (100)
    may come first.
    """

    name: str
    raw: bytes
    expect: tuple[int, ...]
    closes: bool | None = None
    silent: bool = False
    ours: bool = False
    reaches: bool = False
    half_close: bool = False
    interim: bool = False
    param: str = ""
    code: str = ""


def head(*fields: bytes, method: bytes = b"POST", target: bytes = CHAT) -> bytes:
    """Return a request head: Host and a known key, then `fields` as they are."""
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: {host}", AUTH, *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def post(body: bytes = GOOD_BODY, *fields: bytes, target: bytes = CHAT, method: bytes = b"POST") -> bytes:
    """Return a well-framed JSON request with `body`, `fields` added to the head."""
    return head(JSON, length(body), *fields, method=method, target=target) + body


def length(body: bytes) -> bytes:
    """Return the Content-Length field of `body`."""
    return b"Content-Length: %d" % len(body)


def chunked(body: bytes = GOOD_BODY, size: int = 1 << 16) -> bytes:
    """Return `body` in chunks of `size` bytes."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def cases() -> list[BadRequest]:
    """Return every case; names are unique."""
    found: list[BadRequest] = []
    framing = (
        _lengths,
        _codings,
        _chunks,
        _lines,
        _fields,
        _hosts,
        _starts,
        _upgrades,
        _expectations,
        _sizes,
    )
    meaning = (_encodings, _media, _json_text, _json_meaning, _policy, _paths, _credentials, _dialects)
    for rows in framing + meaning:
        found += rows()
    return found


# === 1-7: how long the body is ===


def _framing(name: str, raw: bytes, *expect: int) -> BadRequest:
    return BadRequest(name, raw, expect or (400,), closes=True, silent=True)


def _normalised(name: str, raw: bytes, closes: bool | None = None) -> BadRequest:
    """Return a case that the HTTP server under us mends before we can see it, in a way that RFC 9112 allows.

    It takes bare LF for CRLF (section 2.2), folds equal lengths into one (6.3), and lets chunked win over a
    length but then closes (6.3), so that what follows on the connection is never taken for a request.
    """
    return BadRequest(name, raw, (200, 400), closes=closes, silent=True, reaches=True)


def _lengths() -> Iterator[BadRequest]:
    n = len(GOOD_BODY)
    te = b"Transfer-Encoding: chunked"
    yield _normalised("01-length-then-chunked", head(JSON, length(chunked()), te) + chunked(), closes=True)
    yield _normalised("01-chunked-then-length", head(JSON, te, length(chunked())) + chunked(), closes=True)
    yield _framing("02-two-lengths", head(JSON, length(GOOD_BODY), b"Content-Length: %d" % (n + 1)) + GOOD_BODY)
    yield _framing("02-length-list", head(JSON, b"Content-Length: %d, %d" % (n, n + 1)) + GOOD_BODY)
    yield _normalised("03-same-length-twice", head(JSON, length(GOOD_BODY), length(GOOD_BODY)) + GOOD_BODY)
    yield _framing("03-same-length-list", head(JSON, b"Content-Length: %d, %d" % (n, n)) + GOOD_BODY)
    values = [b"+%d" % n, b"-48", b"%d_%d" % divmod(n, 10), b"0x%x" % n, b"%dZ" % n, b"", b" ", b"%d;" % n]
    for at, value in enumerate(values):
        yield _framing(f"04-length-{at}", head(JSON, b"Content-Length: " + value) + GOOD_BODY)
    yield BadRequest(
        "05-length-octal", head(JSON, b"Content-Length: 0%d" % n) + GOOD_BODY, (200,), closes=False, reaches=True
    )
    for at, size in enumerate((2**63 - 1, 2**63, 2**64, 10**29)):
        yield _framing(f"06-length-huge-{at}", head(JSON, b"Content-Length: %d" % size) + GOOD_BODY, 400, 413)


def _codings() -> Iterator[BadRequest]:
    values = [
        b"blegh",
        b"xchunked",
        b"chunked, identity",
        b"gzip, chunked",
        b"identity",
        b"chunked\x0b",
        b'"chunked"',
    ]
    for at, value in enumerate(values):
        raw = head(JSON, b"Transfer-Encoding: " + value) + chunked()
        yield _framing(f"07-coding-{at}", raw, 400, 501)
    twice = head(JSON, b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked") + chunked()
    yield _framing("07-chunked-twice", twice, 400, 501)
    old = head(JSON, b"Transfer-Encoding: chunked").replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    yield _framing("09-chunked-in-1.0", old + chunked())


# === 10-12: chunks ===


def _chunks() -> Iterator[BadRequest]:
    top = head(JSON, b"Transfer-Encoding: chunked")
    n, rest = len(GOOD_BODY), b"\r\n" + GOOD_BODY + b"\r\n0\r\n\r\n"
    sizes = [b"0x%x" % n, b"-1", b"+%x" % n, b"%x_%x" % divmod(n, 16), b" %x" % n, b"%x " % n, b"",
             b"0" * 17 + b"%x" % n, b"f" * 17, b"zz"]  # fmt: skip
    for at, size in enumerate(sizes):
        # A blank after the size, or leading zeros: hyper reads the number there is. What goes upstream is framed anew.
        lenient = at in (5, 7)
        raw = top + size + rest
        yield _normalised(f"10-chunk-size-{at}", raw) if lenient else _framing(f"10-chunk-size-{at}", raw)
    yield _framing("12-data-without-crlf", top + b"%x\r\n%bXX0\r\n\r\n" % (n, GOOD_BODY))
    yield _framing("12-last-chunk-lf", top + b"%x\r\n%b\r\n0\n\r\n" % (n, GOOD_BODY))
    yield _framing("12-size-line-lf", top + b"%x\n%b\r\n0\r\n\r\n" % (n, GOOD_BODY))


# === 14-18: lines and fields ===


def _lines() -> Iterator[BadRequest]:
    yield _normalised("14-bare-lf", post().replace(b"\r\n", b"\n"))
    yield _framing("14-lone-cr", post(GOOD_BODY, b"X-A: a\rX-B: b"))
    yield _framing("15-obs-fold", post(GOOD_BODY, b"X-A: a\r\n b"))
    yield _framing("15-obs-fold-first", post().replace(b"\r\nHost", b"\r\n X: y\r\nHost", 1))
    yield _framing("16-space-before-colon", post(GOOD_BODY, b"X-A : a"))
    for at, target in enumerate((b"/v1/messages?beta=true", b"/v1beta/models/m-good:generateContent")):
        yield _framing(f"16-space-before-colon-{at}", post(GOOD_BODY, b"X-A : a", target=target))
    yield _framing("16-no-colon", post(GOOD_BODY, b"X-A"))
    yield _framing("16-empty-name", post(GOOD_BODY, b": a"))


def _fields() -> Iterator[BadRequest]:
    for char in b'"(),/;<=>?@[]{}\x01\x7f\x80\xff':
        yield _framing(f"17-name-with-{char:02x}", post(GOOD_BODY, b"X%cA: a" % char))
    for char in (0x00, 0x01, 0x0A, 0x0D, 0x7F):
        yield _framing(f"18-value-with-{char:02x}", post(GOOD_BODY, b"X-A: a%cb" % char))


# === 19: Host ===


def _hosts() -> Iterator[BadRequest]:
    good = post()
    yield _framing("19-no-host", good.replace(b"Host: {host}\r\n", b"", 1))
    yield _framing("19-two-hosts", good.replace(b"Host: {host}\r\n", b"Host: {host}\r\nHost: {host}\r\n", 1))
    bad = [b"a/b", b"a?x", b"a#x", b"u@h", b"a,b", b"a\x00b", b"a b", b"", b"a" * 10240]
    for at, value in enumerate(bad):
        yield _framing(f"19-host-{at}", good.replace(b"{host}", value, 1), 400, 431)


# === 21-24: what is not HTTP/1.1 at all ===


def _starts() -> Iterator[BadRequest]:
    good = post()
    yield _framing("21-target-lf", b"GET /\nHTTP/1.1\r\nHost: {host}\r\n\r\n")
    for at, version in enumerate((b"HTTP/1.32", b"HTTP/4294967295.255", b"HTTP/1.", b"http/1.1", b"HTTP/3.0")):
        yield _framing(f"21-version-{at}", good.replace(b"HTTP/1.1", version, 1), 400, 505)
    yield _framing("21-tabs", good.replace(b"POST ", b"POST\t", 1).replace(b" HTTP", b"\tHTTP", 1))
    yield _framing("21-leading-space", b" " + good)
    yield _framing("22-http-0.9", b"GET /\r\n")
    hello = bytes.fromhex("16030100c8010000c40303") + bytes(range(32, 64)) + b"\x00" * 100
    yield _framing("22-tls-hello", hello)
    noise = bytes(at * 167 % 251 for at in range(512))
    yield _framing("22-noise", noise)
    yield _framing("23-h2-preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")


def _upgrades() -> Iterator[BadRequest]:
    for protocol in (b"websocket", b"h2c", b"foo"):
        fields = [b"Connection: Upgrade", b"Upgrade: " + protocol]
        if protocol == b"websocket":
            fields += [b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
        if protocol == b"h2c":
            fields += [b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"]
        smuggled = b"GET /smuggled HTTP/1.1\r\nHost: {host}\r\n\r\n"
        name = f"24-upgrade-{protocol.decode()}"
        yield BadRequest(name, post(GOOD_BODY, *fields) + smuggled, (200, 400, 426), silent=True, reaches=True)
    odd = head(b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Protocol: \xff", method=b"GET")
    yield BadRequest("24-websocket-get", odd, (400, 404, 405, 426), silent=True)


# === 26-30: bodies that do not come ===


def _expectations() -> Iterator[BadRequest]:
    wait = b"Expect: 100-continue"
    unknown = head(JSON, length(GOOD_BODY), wait).replace(b"{key}", b"unknown", 1)
    yield BadRequest("26-expect-unauthorised", unknown, (401,), ours=True)
    large = head(JSON, b"Content-Length: 9000000", wait)
    yield BadRequest("26-expect-oversized", large, (413,), closes=True, ours=True)
    silent = head(JSON, length(GOOD_BODY), wait)
    yield BadRequest("27-expect-no-body", silent, (408,), closes=True, ours=True, interim=True)
    yield BadRequest("27-expect-foo", post(GOOD_BODY, b"Expect: foo"), (417,), ours=True)
    short = head(JSON, b"Content-Length: %d" % (len(GOOD_BODY) + 1)) + GOOD_BODY
    yield BadRequest("29-short-body-then-fin", short, (400,), closes=True, silent=True, half_close=True)
    yield BadRequest("29-short-body-then-nothing", short, (408,), closes=True, ours=True)
    hurried = short.replace(JSON, JSON + b"\r\nX-Fastroute-Timeout-Ms: 200", 1)
    yield BadRequest("29-short-body-until-the-deadline", hurried, (408,), closes=True, ours=True)
    part = head(JSON, b"Transfer-Encoding: chunked") + chunked()[:-5]
    yield BadRequest("29-no-last-chunk-then-fin", part, (400,), closes=True, silent=True, half_close=True)
    yield BadRequest("29-no-last-chunk-then-nothing", part, (408,), closes=True, ours=True)
    for method in (b"DELETE", b"OPTIONS"):
        name = f"30-body-on-{method.decode().lower()}"
        yield BadRequest(name, post(method=method), (405,), closes=False, ours=True)
    yield BadRequest("30-body-on-get", post(method=b"GET", target=b"/v1/models"), (200, 400), ours=True)


# === 32-38: too much ===


def _sizes() -> Iterator[BadRequest]:
    def large(name: str, raw: bytes, *expect: int) -> BadRequest:
        return BadRequest(name, raw, expect, closes=True, silent=True)

    fields = [b"X-%d: %b" % (at, b"a" * 500) for at in range(70)]
    yield large("32-head-over-32-KiB", post(GOOD_BODY, *fields), 431)
    yield large("32-101-fields", post(GOOD_BODY, *(b"X-%d: a" % at for at in range(101))), 431)
    yield large("32-one-field-64-KiB", post(GOOD_BODY, b"X-A: " + b"a" * 65536), 431)
    yield large("32-endless-head", head()[:-2] + b"X-A: aaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 60_000, 431)
    yield large("32-endless-field", head()[:-2] + b"X-A: " + b"a" * 2_000_000, 431)
    yield BadRequest("33-long-target", post(target=CHAT + b"?" + b"a" * 9000), (414,), ours=True)
    yield large("33-very-long-target", post(target=CHAT + b"?" + b"a" * 70_000), 414, 431)
    yield large("34-head-that-stops", head(JSON, length(GOOD_BODY))[:-2], 408)
    yield large("34-start-that-stops", b"POST /v1/ch", 408)
    body = GOOD_BODY.replace(b"hi", b"a" * 5_000)
    slow = head(JSON, b"Transfer-Encoding: chunked") + chunked(body, 1)
    yield BadRequest("35-one-byte-chunks", slow, (200,), reaches=True)
    over = GOOD_BODY.replace(b"hi", b"a" * (1 << 20))
    yield BadRequest("38-length-over-limit", post(over), (413,), closes=True, silent=True, ours=True)
    announced = head(JSON, b"Content-Length: 1048577")
    yield BadRequest("38-length-over-limit-no-body", announced, (413,), closes=True, ours=True)
    raw = head(JSON, b"Transfer-Encoding: chunked") + chunked(over)
    yield BadRequest("38-chunked-over-limit", raw, (413,), closes=True, silent=True, ours=True)


# === 39-40, 60-61: media ===


def _encodings() -> Iterator[BadRequest]:
    for coding in (b"gzip", b"br", b"zstd", b"deflate", b"gzip, gzip", b"identity, gzip"):
        name = "39-" + coding.decode().replace(", ", "-")
        yield BadRequest(name, post(GOOD_BODY, b"Content-Encoding: " + coding), (415,), closes=False, ours=True)
    twice = post(GOOD_BODY, b"Content-Encoding: identity", b"Content-Encoding: gzip")
    yield BadRequest("39-two-fields", twice, (415,), closes=False, ours=True)


def _media() -> Iterator[BadRequest]:
    types = [b"text/plain", b"application/x-www-form-urlencoded", b"application/json; charset=utf-16",
             b"application/jsonp", b"", b"multipart/form-data", b"application/json, text/plain"]  # fmt: skip
    for at, value in enumerate(types):
        raw = head(b"Content-Type: " + value, length(GOOD_BODY)) + GOOD_BODY
        expect = (200, 415) if not value else (415,)
        yield BadRequest(f"60-type-{at}", raw, expect, closes=False, ours=True, reaches=not value)
    bare = head(length(GOOD_BODY)) + GOOD_BODY
    yield BadRequest("60-no-type", bare, (200, 415), closes=False, ours=True, reaches=True)
    two = head(JSON, b"Content-Type: text/plain", length(GOOD_BODY)) + GOOD_BODY
    yield BadRequest("60-two-types", two, (400, 415), ours=True)
    part = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    form = head(b"Content-Type: multipart/form-data; boundary=b", length(part * 2000)) + part * 2000
    yield BadRequest("40-many-fields", form, (415,), ours=True)
    boundary = head(b"Content-Type: multipart/form-data; boundary=" + b"b" * 20_000, length(part)) + part
    yield BadRequest("40-long-boundary", boundary, (415,), closes=False, ours=True)
    stream = GOOD_BODY[:-1] + b',"stream":true}'
    yield BadRequest("61-stream-without-accept", post(stream, b"Accept: text/html"), (200,), closes=False, reaches=True)


# === 41-46: what is not JSON ===


def _bad_body(name: str, body: bytes, param: str = "", target: bytes = CHAT) -> BadRequest:
    return BadRequest(name, post(body, target=target), (400,), closes=False, ours=True, param=param)


def _with(field: bytes) -> bytes:
    """Return the good body with one member more."""
    return GOOD_BODY[:-1] + b"," + field + b"}"


def _json_text() -> Iterator[BadRequest]:
    deep = 100_000
    yield _bad_body("41-deep-arrays", _with(b'"x":' + b"[" * deep + b"]" * deep))
    yield _bad_body("41-deep-objects", _with(b'"x":' + b'{"a":' * deep + b"1" + b"}" * deep))
    yield _bad_body("41-deep-only-open", b"[" * deep)
    yield _bad_body("41-deep-tool", _with(b'"tools":[{"parameters":' + b'{"a":' * 200 + b"1" + b"}" * 200 + b"}]"))
    argument = _with(b'"metadata":{"a":"' + b"[" * deep + b'"}')
    yield BadRequest("41-deep-in-a-string", post(argument), (200, 400), closes=False, reaches=True)
    hi = b'"hi"'
    texts = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82", rb"\ud800",
             rb"\udc00\ud800", b"\x00", b"\x1f", rb"\x41", rb"\u12"]  # fmt: skip
    for at, text in enumerate(texts):
        yield _bad_body(f"43-text-{at}", GOOD_BODY.replace(hi, b'"' + text + b'"'))
    yield _bad_body("43-bom", b"\xef\xbb\xbf" + GOOD_BODY)
    yield _bad_body("43-utf-16", GOOD_BODY.decode().encode("utf-16"))
    yield _bad_body("43-utf-16-le", GOOD_BODY.decode().encode("utf-16-le"))
    numbers = [
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"1e999",
        b"9" * 10_000,
        b"01",
        b"+1",
        b".5",
        b"1.",
        b"0x1",
        b"1_0",
    ]
    for at, number in enumerate(numbers):
        yield _bad_body(f"44-number-{at}", _with(b'"temperature":' + number))
    yield BadRequest(
        "44-minus-zero", post(_with(b'"temperature":-0')), (200, 400), closes=False, reaches=True, ours=True
    )
    for at, body in enumerate((b"", b"null", b"[]", b'"x"', b"1", b" \n\t ", b"true", b"{}")):
        yield _bad_body(f"45-body-{at}", body)
    tails = [b"x", GOOD_BODY, b"//", b"/* */", b"\x00", b"}", b","]
    for at, tail in enumerate(tails):
        yield _bad_body(f"46-tail-{at}", GOOD_BODY + tail)
    yield _bad_body("46-comment-inside", GOOD_BODY.replace(b"{", b"{/**/", 1))
    yield _bad_body("46-trailing-comma", GOOD_BODY[:-1] + b",}")
    yield _bad_body("46-single-quotes", GOOD_BODY.replace(b'"', b"'"))
    yield _bad_body("46-two-models", _with(b'"model":"m-other"'))
    yield _bad_body("46-two-models-escaped", _with(rb'"mod\u0065l":"m-other"'))


# === 47-56: JSON that means nothing good ===


def _json_meaning() -> Iterator[BadRequest]:
    good = b'[{"role":"user","content":"hi"}]'
    for at, value in enumerate((b'"hi"', b"{}", b"1", b"null")):
        yield _bad_body(f"47-messages-{at}", GOOD_BODY.replace(good, value), "messages")
    # What is inside a message is for the provider to judge; it must arrive as it came.
    for at, value in enumerate((b'[{"content":"hi"}]', b'[{"role":"%b"}]' % (b"r" * 500_000), b"[1]", b"[]")):
        raw = post(GOOD_BODY.replace(good, value))
        yield BadRequest(f"47-message-{at}", raw, (200, 400), closes=False, ours=True, reaches=True)
    names = [b'""', b'"%b"' % (b"m" * 10_240), b'"../x"', b'"%2e%2e"', rb'"m-good\u0000"',
             '"m‑good"'.encode(), b'" m-good"', b'"m-good "', b'"M-GOOD"', rb'"\r\nX-A: b"',
             b'"__proto__"']  # fmt: skip
    for at, name in enumerate(names):
        raw = post(GOOD_BODY.replace(b'"m-good"', name))
        yield BadRequest(f"48-model-{at}", raw, (400, 404), closes=False, ours=True)
    for at, name in enumerate((b'["m-good"]', b"1", b"{}", b"true", b"null")):
        raw = post(GOOD_BODY.replace(b'"m-good"', name))
        yield BadRequest(f"48-model-type-{at}", raw, (400, 404), closes=False, ours=True, param="model")
    for at, value in enumerate((b'"yes"', b"1", b"[]", b'"true"')):
        yield _bad_body(f"49-stream-{at}", _with(b'"stream":' + value), "stream")
    yield BadRequest("49-stream-null", post(_with(b'"stream":null')), (200,), closes=False, reaches=True)


def _policy() -> Iterator[BadRequest]:
    for field in (b'"n":1000000', b'"best_of":1000000', b'"top_logprobs":1000000'):
        name = field.split(b'"')[1].decode()
        yield _bad_body(f"51-{name}", _with(field), name)
    many = {
        "messages": b'"x":[' + b"{}," * 1_000_000 + b"{}]",
        "stop": b'"stop":[' + b'"a",' * 1_000_000 + b'"a"]',
    }
    for name, field in many.items():
        yield BadRequest(f"52-million-{name}", post(_with(field)), (400, 413), silent=True, ours=True)
    tool = b'{"type":"function","function":{"name":"f"}}'
    tools = [b'"tools":[' + (tool + b",") * 10_000 + tool + b"]"]
    tools.append(b'"tools":[{"type":7,"function":{"name":"f","parameters":{"type":"objekt","pattern":"(a+)+$("}}}]')
    tools.append(b'"chat_template_kwargs":{"a":1},"guided_regex":"(a+)+$"')
    for at, field in enumerate(tools):
        yield BadRequest(f"52-54-{at}", post(_with(field)), (200, 400, 413), ours=True, reaches=True)
    for option in ("api_base", "base_url", "api_key", "custom_host", "extra_headers", "model_list"):
        field = b'"%b":"http://%b/"' % (option.encode(), CANARY)
        yield BadRequest(f"55-body-{option}", post(_with(field)), (200, 400), closes=False, ours=True, reaches=True)
    query = post(target=CHAT + b"?api_base=http://" + CANARY)
    yield BadRequest("55-query", query, (200, 400), closes=False, ours=True, reaches=True)
    fields = [b"X-Portkey-Custom-Host: http://" + CANARY, b"Api-Base: http://" + CANARY,
              b"Forwarded: host=" + CANARY, b"X-Forwarded-Host: " + CANARY,
              b"Cookie: a=" + CANARY]  # fmt: skip
    yield BadRequest("55-fields", post(GOOD_BODY, *fields), (200, 400), closes=False, ours=True, reaches=True)
    absolute = b"http://" + CANARY + CHAT
    yield BadRequest("55-absolute-target", post(target=absolute), (200, 400, 404, 421), ours=True, reaches=True)
    for at, url in enumerate(
        (b"http://169.254.169.254/", b"file:///etc/passwd", b"gopher://h/", b"http://2130706433/")
    ):
        part = b'[{"type":"image_url","image_url":{"url":"%b"}}]' % url
        raw = post(GOOD_BODY.replace(b'"hi"', part))
        yield BadRequest(f"56-url-{at}", raw, (200, 400), closes=False, ours=True, reaches=True)


# === 57-59: targets and methods ===


def _paths() -> Iterator[BadRequest]:
    targets = [
        b"/v1/../admin", b"//admin", b"/v1/%2e%2e/admin", b"/v1%2fchat%2fcompletions",
        b"/v1/chat/completions;x", b"/v1\\chat\\completions", b"/v1/%252e%252e/admin",
        b"/v1/%c0%ae%c0%ae/admin", b"/v1/chat//completions", b"/v1/chat/completions/",
        b"/./v1/chat/completions", b"/v1/chat/%63ompletions", b"/V1/chat/completions",
        b"/v1/chat/completions%00", b"/v1/chat/completions%0d%0aX-A:b", b"/admin/v1/keys", b"/metrics",
        b"/docs", b"/v1beta/models/../x:generateContent", b"*",
    ]  # fmt: skip
    for at, target in enumerate(targets):
        # `*` is for OPTIONS alone: a parser may take it for broken framing.
        closes = None if target == b"*" else False
        yield BadRequest(f"57-path-{at}", post(target=target), (400, 404), closes=closes, silent=True)
    for method in (b"TRACE", b"PUT", b"BREW", b"get", b"GET", b"PATCH", b"M" * 100):
        name = f"59-method-{method[:8].decode()}"
        # No method is that long: a parser may take it for noise.
        closes = None if len(method) > 20 else False
        yield BadRequest(name, head(method=method), (400, 405), closes=closes, silent=True)
    tunnel = b"CONNECT example.invalid:443 HTTP/1.1\r\nHost: example.invalid:443\r\n\r\n"
    yield BadRequest("59-connect", tunnel, (400, 404, 405), silent=True)


# === 64: credentials ===


def _credentials() -> Iterator[BadRequest]:
    bad = [b"Bearer", b"Bearer ", b"", b"Basic dXNlcjpwYXNz", b"Bearer unknown", b"Bearer \xff\xfe",
           b"Bearer ' OR 1=1--", b"Bearer %00", b"Bearer {key}x", b"Bearer {key} {key}", b"{key}x",
           b"Bearer " + b"k" * 20_000]  # fmt: skip
    for at, value in enumerate(bad):
        raw = post().replace(b"Bearer {key}", value, 1)
        yield BadRequest(f"64-authorization-{at}", raw, (401,), closes=False, ours=True)
    yield BadRequest("64-none", post().replace(AUTH + b"\r\n", b"", 1), (401,), closes=False, ours=True)
    two = post(GOOD_BODY, b"Authorization: Bearer unknown")
    yield BadRequest("64-two", two, (400, 401), closes=False, ours=True)
    for field in (b"x-api-key: unknown", b"x-goog-api-key: unknown"):
        raw = post().replace(AUTH, field, 1)
        yield BadRequest(f"64-{field.split(b':')[0].decode()}", raw, (401,), closes=False, ours=True)
    huge = post().replace(b"{key}", b"k" * (1 << 20), 1)
    yield BadRequest("64-one-MiB", huge, (401, 431), silent=True)
    query = post(target=b"/v1beta/models/m-good:generateContent?key=unknown").replace(AUTH + b"\r\n", b"", 1)
    yield BadRequest("64-query", query, (401,), closes=False, ours=True)


# === In every dialect ===


def _dialects() -> Iterator[BadRequest]:
    """What is refused alike whoever asks; only the words of the answer are the dialect's."""
    for name, (target, body) in DIALECTS.items():
        yield BadRequest(f"00-{name}", post(body, target=target), (200,), closes=False, reaches=True)
        yield from _dialect_bodies(name, target, body)
        yield from _dialect_targets(name, target, body)
    for at, (name, old, new, param) in enumerate(WRONG_TYPES):
        target, body = DIALECTS[name]
        assert old in body
        yield _refused(f"47-type-{at}-{name}", post(body.replace(old, new, 1), target=target), 400, param=param)


#: Dialect, what to take out of its good body, what to put there, and the field at fault.
WRONG_TYPES = (
    ("openai", b"{", b'{"max_tokens":"8",', "max_tokens"),
    ("openai", b"{", b'{"top_logprobs":[],', "top_logprobs"),
    ("anthropic", b'"m-good"', b"7", "model"),
    ("anthropic", b'[{"role":"user","content":"hi"}]', b'"hi"', "messages"),
    ("anthropic", b"8", b'"8"', "max_tokens"),
    ("anthropic", b"{", b'{"stream":"yes",', "stream"),
    # Google itself takes a string or an object for the only one of the contents.
    ("gemini", b'[{"role":"user","parts":[{"text":"hi"}]}]', b"7", "contents"),
)


def _refused(name: str, raw: bytes, status: int, code: str = "invalid_request_error", param: str = "") -> BadRequest:
    return BadRequest(name, raw, (status,), closes=False, ours=True, code=code, param=param)


def _dialect_bodies(name: str, target: bytes, body: bytes) -> Iterator[BadRequest]:
    first = body.split(b'"')[1]
    wrong = {
        "45-empty": b"",
        "45-array": b"[]",
        "45-string": b'"hi"',
        "46-malformed": body[:-1],
        "46-tail": body + b"}",
        "41-65-arrays": body[:-1] + b',"x":' + b"[" * 64 + b"]" * 64 + b"}",
        "41-65-objects": body[:-1] + b',"x":' + b'{"a":' * 64 + b"1" + b"}" * 65,
    }
    for fault, text in wrong.items():
        yield _refused(f"{fault}-{name}", post(text, target=target), 400)
    twice = body[:-1] + b',"' + first + b'":1}'
    yield _refused(f"46-twice-{name}", post(twice, target=target), 400, param=first.decode())
    deep = body[:-1] + b',"x":' + b"[" * 63 + b"]" * 63 + b"}"
    yield BadRequest(f"41-64-arrays-{name}", post(deep, target=target), (200,), closes=False, reaches=True)
    # Nothing can be read behind a body that is not read.
    over = head(JSON, b"Content-Length: 1048577", target=target)
    large = "request_too_large"
    yield BadRequest(f"38-announced-{name}", over, (413,), closes=True, ours=True, code=large)
    raw = head(JSON, b"Transfer-Encoding: chunked", target=target) + chunked(body[:-1] + b" " * (1 << 20) + b"}")
    yield BadRequest(f"38-chunked-{name}", raw, (413,), closes=True, silent=True, ours=True, code=large)


def _dialect_targets(name: str, target: bytes, body: bytes) -> Iterator[BadRequest]:
    unknown = post(body.replace(b"m-good", b"m-none"), target=target.replace(b"m-good", b"m-none"))
    yield _refused(f"48-unknown-{name}", unknown, 404, "model_not_found", "model")
    for at, path in enumerate((target + b"/x", target + b"x", target.replace(b"m-good:", b"m-good/"))):
        if path != target:
            yield _refused(f"57-unknown-{at}-{name}", post(body, target=path), 404, "not_found")
    for method in (b"GET", b"PUT", b"DELETE"):
        raw = post(body, target=target, method=method)
        yield _refused(f"59-{method.decode().lower()}-{name}", raw, 405, "method_not_allowed")
