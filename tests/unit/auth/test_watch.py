"""A worker's eye on the published keys: what is published is taken over, what is not well changes nothing."""

import asyncio
import os
from pathlib import Path

import pytest

from fastroute.auth import watch as module
from fastroute.auth.files import recent_path, table_path
from fastroute.auth.published import PublishedKeys
from fastroute.auth.watch import KeyWatch
from tests.unit.auth.test_published import ALICE, BOB, known, row, write


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.001)


def test_what_is_published_is_taken_over(tmp_path: Path) -> None:
    state = str(tmp_path)

    async def main() -> None:
        keys = PublishedKeys(state)
        keys.refresh()
        changed = asyncio.Event()
        watch = KeyWatch(asyncio.get_running_loop(), keys, changed.set)
        watch.start()

        async def next_change() -> set[str]:
            await asyncio.wait_for(changed.wait(), 10)
            changed.clear()
            return known(keys)

        write(table_path(state), row(ALICE, "alice"), generation=5)
        assert await next_change() == {"alice"}
        write(recent_path(state), row(ALICE, "", revoked=True), row(BOB, "bob"), generation=6, base=5)
        assert await next_change() == {"bob"}
        os.truncate(recent_path(state), 40)
        while not keys.fault:
            await asyncio.sleep(0.001)
        assert (known(keys), changed.is_set()) == ({"bob"}, False)
        write(table_path(state), row(ALICE, "alice"), row(BOB, "bob"), generation=7)
        os.unlink(recent_path(state))
        assert await next_change() == {"alice", "bob"}
        watch.stop()

    asyncio.run(main())


def test_nobody_looks_any_more_after_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        keys = PublishedKeys(str(tmp_path))
        keys.refresh()
        watch = KeyWatch(asyncio.get_running_loop(), keys, lambda: None)
        watch.start()
        watch.stop()
        write(table_path(str(tmp_path)), row(ALICE, "alice"), generation=5)
        await asyncio.sleep(0.02)
        assert known(keys) == set()

    asyncio.run(main())
