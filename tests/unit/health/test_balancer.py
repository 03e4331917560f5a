"""What is told of keys: masked, counted over all workers, and no more than that."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastroute._core.attempts import FAILED, OK
from fastroute._core.counters import COOLDOWN_UNTIL_MS
from fastroute.health.balancer import mask
from fastroute.health.provider_key import ProviderKeyState
from tests.unit.routing.stand import SECRET, Stand

WALL_NS = 1_642_694_400_000_000_000


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    provider = {
        "id": "p", "type": "openai", "key_strategy": "time_window", "key_window_ms": 90_000, "models": ["m", "n"],
        "keys": [{"id": f"k{number}", "key": f"{SECRET}-0000-{number}", "weight": number} for number in (1, 2, 3)],
    }  # fmt: skip
    with Stand(tmp_path, provider, auth={"path_tokens": ["token"]}) as made:
        yield made


def lane(stand: Stand) -> Any:
    found = stand.snapshot.lanes
    assert found is not None
    lane = found.find(b"token")
    assert lane is not None
    return lane


def told(stand: Stand, what: str) -> dict[str, Any]:
    body = lane(stand).pooled.balancer.answer(what)
    assert SECRET.encode() not in body
    document: dict[str, Any] = json.loads(body)["loadBalancer"]
    return document


def states(stand: Stand) -> list[ProviderKeyState]:
    return list({id(one.key): one.key for one in stand.snapshot.endpoints}.values())


def use(stand: Stand, number: int, verdict: int, times: int = 1) -> None:
    state = states(stand)[number]
    for _ in range(times):
        state.leave(0, state.enter(0, stand.now_ms, WALL_NS), verdict, stand.now_ms)


def test_only_the_pooled_lane_tells(stand: Stand) -> None:
    assert stand.snapshot.balancer is None
    assert lane(stand).single.balancer is None
    assert lane(stand).single.lanes is lane(stand).pooled.lanes is None


def test_the_status(stand: Stand) -> None:
    use(stand, 0, OK, 3)
    use(stand, 0, FAILED)
    use(stand, 2, OK)
    masks = [f"sk-d\u2026{end}" for end in ("00-1", "00-2", "00-3")]
    at = WALL_NS // 1_000_000
    assert told(stand, "status") == {
        "enabled": True, "activeKeys": 3, "totalKeys": 3, "strategy": "time-window",
        "stats": {
            "totalRequests": 5, "successfulRequests": 4, "failedRequests": 1, "lastUsed": at,
            "apiKeyStats": {
                masks[0]: {"requests": 4, "failures": 1, "lastUsed": at},
                masks[1]: {"requests": 0, "failures": 0, "lastUsed": 0},
                masks[2]: {"requests": 1, "failures": 0, "lastUsed": at},
            },
        },
    }  # fmt: skip
    assert told(stand, "reset")["stats"]["totalRequests"] == 0
    assert told(stand, "config")["windowSize"] == 1.5
    assert [one["weight"] for one in told(stand, "config")["apiKeys"]] == [1, 2, 3]


def test_a_key_is_active_while_one_of_its_models_is(stand: Stand) -> None:
    rows = [one.index for one in stand.snapshot.endpoints if one.key_id == "k1"]
    stand.segment.set_cell(rows[0], COOLDOWN_UNTIL_MS, stand.now_ms + 1_000)
    assert told(stand, "status")["activeKeys"] == 3
    stand.segment.set_cell(rows[1], COOLDOWN_UNTIL_MS, stand.now_ms + 1_000)
    assert told(stand, "status")["activeKeys"] == 2
    assert [one["isActive"] for one in told(stand, "config")["apiKeys"]] == [False, True, True]
    stand.now_ms += 1_000
    assert told(stand, "status")["activeKeys"] == 3


def test_a_key_that_is_out_or_being_probed_is_not_active(stand: Stand) -> None:
    use(stand, 1, FAILED, 20)
    assert told(stand, "status")["activeKeys"] == 2
    stand.now_ms += 70_000
    assert told(stand, "status")["activeKeys"] == 2
    use(stand, 1, OK)
    assert told(stand, "status")["activeKeys"] == 3


def test_one_key_alone_is_the_first(stand: Stand) -> None:
    single = lane(stand).single
    assert {endpoint.key_id for pool in single.routes.pools.values() for endpoint in pool.endpoints} == {"k1"}
    # The same endpoints, so that what is known of them is known on all paths.
    assert {endpoint.index for pool in single.routes.pools.values() for endpoint in pool.endpoints} < {
        endpoint.index for endpoint in stand.snapshot.endpoints
    }


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=200))
def test_a_mask_shows_little_of_a_key(key: str) -> None:
    shown = mask(key, "p/k1")
    head, _, tail = shown.partition("\u2026")
    if len(key) < 20:
        assert shown == "\u2026 (p/k1)"
    else:
        assert (head, tail) == (key[:4], key[-4:])
        assert len(head + tail) * 2 < len(key)


def test_masks_that_are_alike_are_told_apart(tmp_path: Path) -> None:
    keys = [f"sk-aaaaaaaaaaaaaaaaaaaaa{middle}zzzz" for middle in "123"] + ["short"]
    provider = {"id": "p", "type": "openai", "models": ["m"], "keys": keys}
    with Stand(tmp_path, provider, auth={"path_tokens": ["token"]}) as stand:
        shown = list(told(stand, "status")["stats"]["apiKeyStats"])
    assert shown == ["sk-a\u2026zzzz", "sk-a\u2026zzzz #2", "sk-a\u2026zzzz #3", "\u2026 (p/k4)"]
