"""jsonscan: what is accepted, where the fields are, which fault is reported where; on both halves."""

import json
import subprocess
import sys
import threading
from typing import Any

import orjson
import pytest

from fastroute._core import _jsonscan_errors as shared
from fastroute._core import jsonscan
from fastroute._core._jsonscan_errors import ScanError
from tests.unit.core.twins import twins

FIELDS = ("model", "stream", "messages")


@pytest.fixture(params=twins("jsonscan"))
def half(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def scan(half: Any) -> Any:
    return half.Scanner(FIELDS).scan


def refused(scan: Any, body: bytes) -> tuple[str, int]:
    with pytest.raises(ScanError) as caught:
        scan(body)
    assert str(caught.value)
    return caught.value.code, caught.value.offset


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    """Return a body whose containers nest `depth` deep."""
    return b'{"a":' + opening * (depth - 1) + closing * (depth - 1) + b"}"


def test_dispatcher_offers_one_half() -> None:
    assert jsonscan.ScanError is ScanError
    assert jsonscan.Scanner.__module__ in ("fastroute._core._jsonscan_c", "fastroute._core._jsonscan_py")
    kinds = [getattr(jsonscan, name) for name in jsonscan.__all__ if name.startswith("KIND_")]
    assert sorted(kinds) == list(range(9))


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b'"gpt-4o"', jsonscan.KIND_STRING),
        (b'""', jsonscan.KIND_STRING),
        ('"\u00e9 \u4e2d \U0001f600 \x7f"'.encode(), jsonscan.KIND_STRING),
        (b'"a\\nb"', jsonscan.KIND_STRING_ESCAPED),
        (b'"\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uD83D\\uDE00\\u0000"', jsonscan.KIND_STRING_ESCAPED),
        (b"0", jsonscan.KIND_NUMBER),
        (b"-0", jsonscan.KIND_NUMBER),
        (b"-12.50E+3", jsonscan.KIND_NUMBER),
        (b"1e-9", jsonscan.KIND_NUMBER),
        (b"true", jsonscan.KIND_TRUE),
        (b"false", jsonscan.KIND_FALSE),
        (b"null", jsonscan.KIND_NULL),
        (b"{}", jsonscan.KIND_OBJECT),
        (b'{"a" : [ { } ] , "b":{"a":1,"a":2}}', jsonscan.KIND_OBJECT),
        (b"[]", jsonscan.KIND_ARRAY),
        (b'[ 1 , "]" , [ ] , {"x":"}"} ]', jsonscan.KIND_ARRAY),
        (rb'"\\"', jsonscan.KIND_STRING_ESCAPED),
        (rb'"\""', jsonscan.KIND_STRING_ESCAPED),
        (rb'"\\\",\"\\"', jsonscan.KIND_STRING_ESCAPED),
        (rb'[ "\"]" , "\\" , {"\\\"}":"\\\\"} , "}" ]', jsonscan.KIND_ARRAY),
        (rb'{ "\\":"\"}" , "a":[ "\\\"]" ] , "\"":"\\" }', jsonscan.KIND_OBJECT),
    ],
)
@pytest.mark.parametrize("around", [b'{"model":%b}', b' {\t"x" : 1 ,\r\n"model" : %b , "y":[{}]}\n'])
def test_finds_a_value(half: Any, value: bytes, kind: int, around: bytes) -> None:
    body = around % value
    start = body.index(b'"model"')
    start = body.index(value, start + 7)
    result = half.Scanner(["model"]).scan(body)
    assert result[:3] == (kind, start, start + len(value))
    assert result[3:] == (body.index(b"{") + 1, len(orjson.loads(body)))


def test_result_is_flat_in_the_order_of_fields(scan: Any) -> None:
    body = b'{"messages":[],"model":"m"}'
    assert scan(body) == (1, 23, 26, 0, 0, 0, 8, 12, 14, 1, 2)
    assert type(scan(body)) is tuple


def test_the_kinds_of_all_fields_stand_beside_the_result(half: Any) -> None:
    scanner = half.Scanner(("a", "b", "c"), 8)
    body = b'{"c": "x", "a": 1}'
    assert scanner.scan_kinds(body) == (bytes((jsonscan.KIND_NUMBER, 0, jsonscan.KIND_STRING)), scanner.scan(body))
    with pytest.raises(ScanError):
        scanner.scan_kinds(b"{")
    with pytest.raises(TypeError):
        scanner.scan_kinds("{}")


def test_no_fields_and_no_members(half: Any) -> None:
    assert half.Scanner([]).scan(b" {} ") == (2, 0)
    assert half.Scanner([""]).scan(b'{"":1}') == (3, 4, 5, 1, 1)


def test_only_top_level_members_count(scan: Any) -> None:
    assert scan(b'{"metadata":{"model":"a","stream":true},"x":[{"messages":[]}]}')[:9] == (0,) * 9


def test_escaped_key_is_the_key(scan: Any) -> None:
    assert scan(b'{"mod\\u0065l":1}')[:3] == (3, 14, 15)


@pytest.mark.parametrize("body", [b"", b" ", b"\n\t\r "])
def test_empty(scan: Any, body: bytes) -> None:
    assert refused(scan, body) == ("empty", len(body))


@pytest.mark.parametrize("value", [b"[]", b'"a"', b"1", b"-1", b"true", b"false", b"null", b"[", b"nul"])
def test_not_object(scan: Any, value: bytes) -> None:
    assert refused(scan, b" " + value) == ("not_object", 1)


MALFORMED = [
    (b"\xef\xbb\xbf{}", 0),
    (b"\xef", 0),
    (b"\x00", 0),
    (b"}", 0),
    (b"{", 1),
    (b"{,}", 1),
    (b"{1:2}", 1),
    (b'{"a"', 4),
    (b'{"a" 1}', 5),
    (b'{"a":', 5),
    (b'{"a":}', 5),
    (b'{"a":1', 6),
    (b'{"a":1,', 7),
    (b'{"a":1,}', 7),
    (b'{"a":1]', 6),
    (b'{"a":1}}', 7),
    (b'{"a":1}{}', 7),
    (b'{"a":1} x', 8),
    (b'{"a":1}\x00', 7),
    (b"{}\x0b", 2),
    (b"{}//", 2),
    (b"{\xa0}", 1),
    (b'{"a":\x00}', 5),
    (b'{"a":[', 6),
    (b'{"a":[1', 7),
    (b'{"a":[1,]}', 8),
    (b'{"a":[1}}', 7),
    (b'{"a":[1 2]}', 8),
    (b'{"a":[,]}', 6),
    (b'{"a":{]}', 6),
    (b'{"a":{"b"}}', 9),
    (b'{"a":{"b":1,}}', 12),
    (b'{"a":{"b":1]}', 11),
    (b'{"a":{1:1}}', 6),
    (b"{'a':1}", 1),
    (b'{"a":tru}', 5),
    (b'{"a":True}', 5),
    (b'{"a":fals', 5),
    (b'{"a":nulL}', 5),
    (b'{"a":truex}', 9),
    (b'{"a":NaN}', 5),
    (b'{"a":Infinity}', 5),
    (b'{"a":-Infinity}', 5),
    (b'{"a":-}', 5),
    (b'{"a":-', 5),
    (b'{"a":+1}', 5),
    (b'{"a":.5}', 5),
    (b'{"a":01}', 6),
    (b'{"a":-01}', 7),
    (b'{"a":1.}', 6),
    (b'{"a":1.e3}', 6),
    (b'{"a":1e}', 6),
    (b'{"a":1e+}', 6),
    (b'{"a":0x1}', 6),
    (b'{"a":"', 6),
    (b'{"a":"x', 7),
    (b'{"a":"\x1f"}', 6),
    (b'{"a":"' + b"x" * 40 + b'\x00"}', 46),
    (b'{"a\n":1}', 3),
    (b'{"a":"\\', 6),
    (b'{"a":"\\"}', 9),
    (b'{"a":"\\x"}', 6),
    (b'{"a":"\\u12"}', 6),
    (b'{"a":"\\u12g4"}', 6),
    (b'{"a":"\\ud800"}', 6),
    (b'{"a":"\\uD800\\u0041"}', 6),
    (b'{"a":"\\ud800\\ud800\\udc00"}', 6),
    (b'{"a":"\\ud800\\udc0', 6),
    (b'{"a":"\\ud800x"}', 6),
    (b'{"a":"\\udc00"}', 6),
    (b'{"\\udfff":1}', 2),
]


@pytest.mark.parametrize(("body", "offset"), MALFORMED)
def test_malformed(scan: Any, body: bytes, offset: int) -> None:
    assert refused(scan, body) == ("malformed", offset)


@pytest.mark.parametrize(
    "sequence",
    [
        b"\x80",
        b"\xbf",
        b"\xc0\x80",
        b"\xc1\xbf",
        b"\xc3",
        b"\xc3\xc3",
        b"\xe0\x9f\xbf",
        b"\xe4\xb8",
        b"\xe4\xb8x",
        b"\xed\xa0\x80",
        b"\xed\xbf\xbf",
        b"\xf0\x8f\xbf\xbf",
        b"\xf0\x9f\x98",
        b"\xf4\x90\x80\x80",
        b"\xf5\x80\x80\x80",
        b"\xff",
    ],
)
def test_invalid_utf8(scan: Any, sequence: bytes) -> None:
    for before in (b"", b"abc", b"\xc3\xa9" * 9, b"x" * 33):
        at = 6 + len(before)
        assert refused(scan, b'{"a":"' + before + sequence + b'"}') == ("invalid_utf8", at)
        assert refused(scan, b'{"a":"' + before + sequence) == ("invalid_utf8", at)
    assert refused(scan, b'{"' + sequence + b'":1}') == ("invalid_utf8", 2)


def test_utf8_borders_are_accepted(scan: Any) -> None:
    points = "\x7f\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"
    assert scan(b'{"model":"' + points.encode() + b'"}')[0] == jsonscan.KIND_STRING


@pytest.mark.parametrize(
    ("body", "offset", "key"),
    [
        (b'{"a":1,"a":2}', 7, "a"),
        (b'{"model":1,"x":2,"mod\\u0065l":3}', 17, "model"),
        (b'{"mod\\u0065l":1,"model":2}', 16, "model"),
        (b'{"\\u0061":1,"\\u0061":2}', 12, "a"),
        (b'{"\\ud83d\\ude00":1,"\xf0\x9f\x98\x80":2}', 18, "\U0001f600"),
        (b'{"":1,"":2}', 6, ""),
        (b'{"a":1,"a"', 7, "a"),
        (b'{"' + b"k" * 500 + b'":1,"' + b"k" * 500 + b'":1}', 506, "k" * 128),
    ],
)
def test_duplicate_key(scan: Any, body: bytes, offset: int, key: str) -> None:
    with pytest.raises(ScanError) as caught:
        scan(body)
    assert (caught.value.code, caught.value.offset, caught.value.key) == ("duplicate_key", offset, key)
    assert repr(key) in str(caught.value)


def test_other_faults_carry_no_key(scan: Any) -> None:
    with pytest.raises(ScanError) as caught:
        scan(b'{"a":')
    assert caught.value.key == ""


def test_similar_keys_are_not_duplicates(scan: Any) -> None:
    keys = ["a" * n for n in range(1, 40)] + ["A", "aab", "baa", "\x7f", "\u00e9", "e\u0301"]
    assert scan(json.dumps(dict.fromkeys(keys, 1)).encode())[-1] == len(keys)


def members(count: int) -> bytes:
    return b"{" + b",".join(b'"key%d":%d' % (i, i) for i in range(count)) + b"}"


def test_members_are_bounded(half: Any) -> None:
    body = members(shared.MAX_MEMBERS)
    at = body.index(b"1023", body.index(b'"key1023"') + 9)
    assert half.Scanner(["key1023"]).scan(body) == (3, at, at + 4, 1, 1024)
    more = body[:-1] + b',"key0":1}'
    assert refused(half.Scanner([]).scan, more) == ("too_many", len(body))


def test_depth(half: Any) -> None:
    scan = half.Scanner(FIELDS).scan
    for opening, closing in ((b"[", b"]"), (b'{"b":', b"}")):
        bottom = b"0" if opening != b"[" else b""
        body = b'{"a":' + opening * 63 + bottom + closing * 63 + b"}"
        assert scan(body)[-1] == 1
        deeper = b'{"a":' + opening * 64 + bottom + closing * 64 + b"}"
        assert refused(scan, deeper) == ("too_deep", 5 + 63 * len(opening))


@pytest.mark.parametrize("max_depth", [1, 2, 31, 33, 34, 65, 128, 1024])
def test_depth_is_exact(half: Any, max_depth: int) -> None:
    scan = half.Scanner(FIELDS, max_depth=max_depth).scan
    assert scan(nested(max_depth).replace(b'{"a":}', b"{}"))[-1] <= 1
    assert refused(scan, nested(max_depth + 1)) == ("too_deep", 5 + max_depth - 1)


def test_depth_counts_in_members_dropped_as_repeated(half: Any) -> None:
    body = b'{"a":{"b":[[[]]],"b":1}}'
    assert refused(half.Scanner(FIELDS, max_depth=4).scan, body) == ("too_deep", 12)


def test_very_deep_body_fails_fast(scan: Any) -> None:
    for opening in (b"[", b'{"a":'):
        assert refused(scan, b'{"a":' + opening * 100_000) == ("too_deep", 5 + 63 * len(opening))


def test_containers_of_both_kinds_close_in_order(scan: Any) -> None:
    body = b'{"a":[{"b":[{"c":[[],{},[{}]]}]},[[{"d":{}}]]],"model":1}'
    assert scan(body)[:2] == (jsonscan.KIND_NUMBER, body.index(b"1}"))
    for i, byte in enumerate(body):
        if byte in b"[]{}":
            swapped = bytes([{0x5B: 0x7B, 0x7B: 0x5B, 0x5D: 0x7D, 0x7D: 0x5D}[byte]])
            assert refused(scan, body[:i] + swapped + body[i + 1 :])[0] in ("malformed", "not_object")


@pytest.mark.parametrize(
    "number",
    [
        "1e999",
        "-1e999",
        "1E+400",
        "1" + "0" * 309,
        "9" * 309,
        "1.7976931348623159e308",
        "17976931348623159e292",
        "0.0001e313",
        "1e99999999999999999999",
        "1" * 513,
        "-" + "1" * 512,
        "0." + "1" * 511,
        "1e-" + "9" * 510,
        "0" + "." + "0" * 400 + "1e-" + "0" * 120,
    ],
)
def test_number_out_of_range(scan: Any, number: str) -> None:
    token = number.encode()
    assert refused(scan, b'{"a":' + token + b"}") == ("number_out_of_range", 5)
    assert refused(scan, b'{"b":[0, ' + token + b"]}") == ("number_out_of_range", 9)
    assert refused(scan, b'{"b":[0, ' + token) == ("number_out_of_range", 9)


@pytest.mark.parametrize(
    "number",
    [
        "1e308",
        "9" * 308,
        "1.7976931348623158e308",
        "0e99999",
        "0.0e999",
        "-0",
        "0." + "0" * 320 + "1e600",
        "1" + "0" * 400 + "e-300",
        "1e-99999",
        "0." + "1" * 510,
        "1e-" + "9" * 509,
        "1e" + "0" * 400 + "1",
    ],
)
def test_number_in_range(half: Any, number: str) -> None:
    body = b'{"model":' + number.encode() + b"}"
    assert half.Scanner(["model"]).scan(body)[:3] == (3, 9, 9 + len(number))


@pytest.mark.parametrize("body", ["{}", bytearray(b"{}"), memoryview(b"{}"), None, {}, 1])
def test_only_bytes(half: Any, body: Any) -> None:
    with pytest.raises(TypeError, match="must be bytes"):
        half.Scanner(FIELDS).scan(body)
    with pytest.raises(TypeError, match="must be bytes"):
        half.unescape(body, 0, 1)


@pytest.mark.parametrize(
    ("fields", "max_depth"),
    [
        (["a", "a"], 64),
        (["\u00e9"], 64),
        ([str(i) for i in range(65)], 64),
        (["a"], 0),
        (["a"], 1025),
    ],
)
def test_unusable_scanner(half: Any, fields: list[str], max_depth: int) -> None:
    with pytest.raises(ValueError, match=r"field|max_depth"):
        half.Scanner(fields, max_depth)


def test_special_bytes_at_every_place_of_a_block(half: Any) -> None:
    """The compiled half reads strings in blocks of 16 (or 8) bytes: try each place in and after a block."""
    scan = half.Scanner(["a"]).scan
    for length in range(40):
        for special, kind in ((b'\\"', 2), (b"\\n", 2), (b"\xc3\xa9", 1), (b"\x7f", 1), (b" ", 1)):
            for tail in (b"", b"z" * 20):
                value = b'"' + b"y" * length + special + tail + b'"'
                assert scan(b'{"a":' + value + b"}")[:3] == (kind, 5, 5 + len(value))
        for special, code in ((b"\x00", "malformed"), (b"\x1f", "malformed"), (b"\x80", "invalid_utf8")):
            assert refused(scan, b'{"a":"' + b"y" * length + special + b'z"}') == (code, 6 + length)


def test_large_bodies(half: Any) -> None:
    """Past 64 KB the compiled half gives the GIL away."""
    text = 'He said "hi" \u00e9\n' * 10_000
    body = orjson.dumps({"messages": [{"role": "user", "content": text}] * 3, "model": "m"})
    scan = half.Scanner(FIELDS).scan
    result = scan(body)
    assert body[result[1] : result[2]] == b'"m"'
    assert orjson.loads(body[result[7] : result[8]])[2]["content"] == text
    assert refused(scan, body[:-1]) == ("malformed", len(body) - 1)
    assert refused(scan, body[:-1] + b',"model":1}') == ("duplicate_key", len(body))


def test_one_scanner_serves_many_threads(half: Any) -> None:
    scan = half.Scanner(FIELDS).scan
    bodies = [orjson.dumps({"x": "y" * 70_000 * (i + 1), "model": str(i)}) for i in range(4)]
    expected = [scan(body) for body in bodies]
    wrong: list[int] = []

    def work(i: int) -> None:
        wrong.extend(i for _ in range(30) if scan(bodies[i]) != expected[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("token", "content"),
    [
        (b'""', ""),
        (b'"plain"', "plain"),
        (b'"\\u0061\\n\\t\\r\\b\\f\\/\\\\\\""', 'a\n\t\r\b\f/\\"'),
        (b'"x\\u00e9y\\u4e2dz\\ud83d\\ude00\\u0000"', "x\u00e9y\u4e2dz\U0001f600\x00"),
        ('"\u4e2d\\u4e2d"'.encode(), "\u4e2d\u4e2d"),
    ],
)
def test_unescape(half: Any, token: bytes, content: str) -> None:
    body = b'{"model":' + token + b"}"
    kind, start, end = half.Scanner(["model"]).scan(body)[:3]
    assert kind in (jsonscan.KIND_STRING, jsonscan.KIND_STRING_ESCAPED)
    assert half.unescape(body, start, end) == content.encode()


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 6), (1, 5), (2, 6), (1, 7), (1, 2), (-6, 6), (1, 1), (6, 1), (5, 99), (7, 8), (99, 100)],
)
def test_unescape_elsewhere(half: Any, start: int, end: int) -> None:
    body = b'{"abc":1}'
    assert half.unescape(body, 1, 6) == b"abc"
    with pytest.raises(ValueError, match="no JSON string"):
        half.unescape(body, start, end)


@pytest.mark.parametrize("token", [b'"\\x"', b'"\\ud800"', b'"\xff"', b'"\n"', b'"a"b"', b'"\\"', b'"', b"abc"])
def test_unescape_invalid(half: Any, token: bytes) -> None:
    with pytest.raises(ValueError, match="no JSON string"):
        half.unescape(token, 0, len(token))


def test_no_stack_growth_when_very_deep(half: Any) -> None:
    """A thread with a small C stack refuses a deep body as any other does."""
    code = (
        "import threading, importlib\n"
        f"half = importlib.import_module({half.__name__!r})\n"
        "scan = half.Scanner(['a'], 1024).scan\n"
        "seen = []\n"
        "def work():\n"
        "    try:\n"
        "        scan(b'{\"a\":' + b'[' * 100000)\n"
        "    except ValueError as error:\n"
        "        seen.append(error.code)\n"
        "threading.stack_size(256 * 1024)\n"
        "thread = threading.Thread(target=work)\n"
        "thread.start()\n"
        "thread.join()\n"
        "assert seen == ['too_deep'], seen\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
