"""The tasks of Granian's lane: one serves one request after another, and what ends one ends no other."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from fastroute.downstream import listener
from fastroute.downstream.listener import Tasks


class Watcher:
    """What Granian hands over with a request."""

    def __init__(self, name: str) -> None:
        self.scope = {"path": name}
        self.proto = SimpleNamespace(receive=None, send=None)
        self.end = ""

    def done(self) -> None:
        self.end = "done"

    def err(self, error: BaseException) -> None:
        self.end = type(error).__name__


class Lane:
    """The tasks of an application, and which of them served each request."""

    def __init__(self, answer: Callable[[str], Awaitable[None]]) -> None:
        self.tasks: list[asyncio.Task[Any] | None] = []

        async def application(scope: Any, receive: Any, send: Any) -> None:
            self.tasks.append(asyncio.current_task())
            await answer(scope["path"])

        self._start = Tasks(asyncio.get_running_loop(), application).start

    async def serve(self, *names: str) -> list[Watcher]:
        """Hand over requests, if any, at once; return them when nothing moves any more."""
        watchers = [Watcher(name) for name in names]
        for watcher in watchers:
            self._start(watcher)
        for _ in range(10):
            await asyncio.sleep(0)
        return watchers


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


async def quickly(name: str) -> None:
    """Answer."""


def test_one_after_another_is_served_by_one_task() -> None:
    async def test() -> None:
        lane = Lane(quickly)
        for _ in range(3):
            [watcher] = await lane.serve("a")
            assert watcher.end == "done"
        assert len(set(lane.tasks)) == 1

    run(test)


def test_those_at_one_time_have_a_task_each() -> None:
    async def test() -> None:
        go = asyncio.Event()

        async def slowly(name: str) -> None:
            await go.wait()

        lane = Lane(slowly)
        watchers = await lane.serve("a", "b")
        assert [watcher.end for watcher in watchers] == ["", ""]
        go.set()
        await lane.serve()
        await lane.serve("c", "d")
        assert len(set(lane.tasks[:2])) == 2
        assert set(lane.tasks[2:]) <= set(lane.tasks[:2])

    run(test)


@pytest.mark.parametrize("error", [RuntimeError("a fault"), asyncio.CancelledError()])
def test_a_failure_is_told_and_ends_its_task_alone(error: BaseException) -> None:
    async def test() -> None:
        async def answer(name: str) -> None:
            if name == "bad":
                raise error

        lane = Lane(answer)
        [bad] = await lane.serve("bad")
        assert bad.end == type(error).__name__
        assert lane.tasks[0] is not None
        assert lane.tasks[0].done()
        assert [watcher.end for watcher in await lane.serve("a", "b")] == ["done", "done"]

    run(test)


def test_a_task_that_was_ended_while_it_was_idle_gets_no_request() -> None:
    async def test() -> None:
        lane = Lane(quickly)
        await lane.serve("a")
        assert lane.tasks[0] is not None
        lane.tasks[0].cancel()
        [watcher] = await lane.serve("b")
        assert watcher.end == "done"
        assert lane.tasks[1] is not lane.tasks[0]

    run(test)


def test_a_crowd_leaves_only_so_many_tasks_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_IDLE_TASKS", 2)

    async def test() -> None:
        go = asyncio.Event()

        async def together(name: str) -> None:
            await go.wait()

        lane = Lane(together)
        await lane.serve(*"abcde")
        go.set()
        await lane.serve()
        assert sum(task is not None and not task.done() for task in set(lane.tasks)) == 2

    run(test)
