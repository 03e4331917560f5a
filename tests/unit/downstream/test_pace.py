"""One tick for all who wait, and no timer while nobody does."""

import asyncio

from fastroute.downstream.pace import Pace


def test_everybody_wakes_at_the_same_tick_and_one_who_left_harms_nobody() -> None:
    async def main() -> list[int]:
        pace = Pace(asyncio.get_running_loop())
        woken: list[int] = []

        async def wait(number: int) -> None:
            await pace.tick()
            woken.append(number)

        tasks = [asyncio.create_task(wait(number)) for number in range(3)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await pace.tick()
        return woken

    assert asyncio.run(main()) == [0, 2]
