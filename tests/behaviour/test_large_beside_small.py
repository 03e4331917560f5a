"""Whoever sends, or is sent, something large holds up nobody: it is read in a thread, and others are served meanwhile.

The one reading stands still until a small request has been served by the same event loop.
"""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from fastroute.dialects import openai
from fastroute.downstream.request import SCAN_IN_THREAD_BYTES
from fastroute.relay import HOLD_BYTES, PARSE_IN_THREAD_BYTES
from fastroute.upstream.mock import MockUpstream, Request, Script, json_response
from tests.behaviour.gateway_in_process import InProcess
from tests.behaviour.stand_in import StandIn

CHAT = "/v1/chat/completions"
SMALL = b'{"model":"m","messages":[]}'
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
#: Nothing is waited for that long unless something is wrong.
PATIENCE_S = 30


def padded(document: bytes, size: int) -> bytes:
    """Return a JSON object with a filler in it that makes it exactly so large."""
    head, tail = document[:-1] + b',"user":"', b'"}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


class Reading:
    """Stands in for a function that reads bytes, and stands still in those of one size until it may go on."""

    def __init__(self, read: Callable[[bytes], Any], size: int) -> None:
        self._read = read
        self._size = size
        self._loop_thread = threading.get_ident()
        self._begun = threading.Event()
        self._go_on = threading.Event()

    def __call__(self, data: bytes) -> Any:
        if len(data) == self._size:
            # Here it would wait for what waits for it.
            assert threading.get_ident() != self._loop_thread, "it stands still in the event loop"
            self._begun.set()
            assert self._go_on.wait(PATIENCE_S)
        return self._read(data)

    async def beside(self, inside: InProcess, body: bytes) -> None:
        """Have a request served whose reading stands still, and a small one meanwhile."""
        large = asyncio.ensure_future(inside.post(CHAT, body))
        try:
            while not self._begun.is_set():
                assert not large.done(), "it was not read, or in the event loop"
                await asyncio.sleep(0.001)
            small = await asyncio.wait_for(inside.post(CHAT, SMALL), PATIENCE_S)
            assert (small.status, small.finished) == (200, True)
            assert not large.done()
        finally:
            self._go_on.set()
        client = await large
        assert (client.status, client.finished) == (200, True)
        assert [record.usage_source for record in inside.records()] == ["provider", "provider"]


def run(answer: Callable[[Request], Script], test: Callable[[InProcess], Any]) -> None:
    async def main() -> None:
        async with MockUpstream(answer) as upstream:
            provider = {"id": "p", "type": "openai", "base_url": f"{upstream.url}/v1", "keys": ["up"], "models": ["m"]}
            async with InProcess({"providers": [provider]}) as inside:
                await test(inside)
                assert await inside.quiet(set(asyncio.all_tasks())) == []

    asyncio.run(main())


def test_a_large_request_is_scanned_beside_small_ones() -> None:
    size = SCAN_IN_THREAD_BYTES + 1

    async def test(inside: InProcess) -> None:
        reader = inside.gateway._reader
        scanner = reader._scanner
        reading = Reading(scanner.scan_kinds, size)
        reader._scanner = StandIn(scanner, scan_kinds=reading)
        await reading.beside(inside, padded(SMALL, size))

    run(lambda _: json_response(200, {"usage": USAGE}), test)


@pytest.mark.parametrize("size", [PARSE_IN_THREAD_BYTES + 1, HOLD_BYTES + 1], ids=["held", "streamed"])
def test_a_large_answer_is_metered_beside_small_ones(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = b'{"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'

    def answer(request: Request) -> Script:
        return json_response(200, padded(usage, size) if b"much" in request.body else usage)

    async def test(inside: InProcess) -> None:
        reading = Reading(openai.usage_from_json, size)
        monkeypatch.setattr(openai, "usage_from_json", reading)
        await reading.beside(inside, b'{"model":"m","messages":[],"user":"much"}')

    run(answer, test)
