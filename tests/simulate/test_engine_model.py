"""The engine's model: batches, prefill, the KV cache, weight updates; by numbers worked out by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentrl.errors import EngineError
from agentrl.simulate.clock import run
from agentrl.simulate.engine import Engine, EngineModel

PLAIN = EngineModel(
    step_seconds=0.01,
    sequence_seconds=0.0,
    context_seconds=0.0,
    prefill_rate=1000.0,
    kv_tokens=10_000,
    sequences=4,
)


def on(model: EngineModel, work: Callable[[Engine, Callable[[], float]], Awaitable[Any]]) -> Any:
    """What ``work(engine, now)`` returns in virtual time."""

    async def main() -> Any:
        return await work(Engine(model), asyncio.get_running_loop().time)

    return run(main())


async def timed(engine: Engine, now: Callable[[], float], *request: Any) -> float:
    await engine.generate(*request)
    return now()


def test_a_prompt_is_computed_and_then_tokens_come_one_by_one() -> None:
    async def work(engine: Engine, now: Callable[[], float]) -> float:
        return await timed(engine, now, "a", 500, 100)

    assert on(PLAIN, work) == pytest.approx(500 / 1000 + 100 * 0.01)


def test_a_batch_shares_the_steps_and_a_larger_one_is_slower() -> None:
    model = EngineModel(0.01, 0.005, 0.0, 1e12, 10_000)

    async def work(engine: Engine, now: Callable[[], float]) -> tuple[float, float]:
        return await asyncio.gather(timed(engine, now, "a", 1, 100), timed(engine, now, "b", 1, 200))

    both, alone = 0.01 + 2 * 0.005, 0.01 + 0.005
    assert on(model, work) == pytest.approx([100 * both, 100 * both + 100 * alone])


def test_what_does_not_fit_waits_in_order() -> None:
    model = EngineModel(0.01, 0.0, 0.0, 1e12, kv_tokens=250)

    async def work(engine: Engine, now: Callable[[], float]) -> list[float]:
        requests = [("a", 100, 100), ("b", 100, 100), ("c", 10, 10)]
        waiting = asyncio.gather(*(timed(engine, now, *request) for request in requests))
        await asyncio.sleep(0.5)
        assert (engine.running, engine.waiting) == (1, 2)
        assert engine.load > 1
        return await waiting

    assert on(model, work) == pytest.approx([1.0, 2.0, 1.1])
    with pytest.raises(EngineError, match="do not fit"):
        on(model, lambda engine, now: engine.generate("d", 200, 51))


def test_the_next_turn_finds_its_prefix_unless_weights_changed() -> None:
    async def work(engine: Engine, now: Callable[[], float]) -> tuple[float, float, int, int]:
        await engine.generate("a", 400, 100)
        started = now()
        second = await timed(engine, now, "a", 600, 10) - started
        engine.update(1, 0.0)
        started = now()
        return second, await timed(engine, now, "a", 610, 10) - started, engine.cached, engine.prefilled

    second, third, cached, prefilled = on(PLAIN, work)
    assert second == pytest.approx(100 / 1000 + 10 * 0.01), "500 of the 600 tokens were there"
    assert third == pytest.approx(610 / 1000 + 10 * 0.01), "caches of other weights are of no use"
    assert (cached, prefilled) == (500, 400 + 100 + 610)


def test_a_weight_update_interrupts_and_tokens_keep_their_versions() -> None:
    async def work(engine: Engine, now: Callable[[], float]) -> tuple[list[int], float]:
        running = asyncio.ensure_future(engine.generate("a", 100, 100))
        await asyncio.sleep(0.1 + 0.3)  # the prompt, and 30 tokens
        engine.update(1, 5.0)
        versions = await running
        return versions, now()

    versions, ended = on(PLAIN, work)
    assert versions == [0, 1, 1], "of the first, the fiftieth and the last token"
    assert ended == pytest.approx(0.1 + 1.0 + 5.0 + 150 / 1000), "the prompt and half of the turn, anew"


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_no_token_is_lost_and_the_cache_never_overflows(data: st.DataObject) -> None:
    model = EngineModel(0.01, 0.001, 1e-6, 5000, kv_tokens=3000, sequences=8)
    requests = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from("abcdef"), st.integers(1, 1500), st.integers(1, 1500), st.floats(0, 30)
            ),
            min_size=1, max_size=30,
        )
    )  # fmt: skip
    updates = data.draw(st.lists(st.floats(0, 60), max_size=4))

    async def work(engine: Engine, now: Callable[[], float]) -> None:
        async def request(name: str, context: int, tokens: int, at: float) -> None:
            await asyncio.sleep(at)
            versions = await engine.generate(name, context, tokens)
            assert versions == sorted(versions) and versions[-1] <= engine.version
            assert engine._reserved + engine._kept_tokens <= model.kv_tokens
            assert engine.running <= model.sequences

        async def update(version: int, at: float) -> None:
            await asyncio.sleep(at)
            engine.update(version, 1.0)

        await asyncio.gather(
            *(request(*wanted) for wanted in requests),
            *(update(version, at) for version, at in enumerate(sorted(updates), 1)),
        )
        assert engine.sampled == sum(tokens for _, _, tokens, _ in requests)
        assert (engine.running, engine.waiting, engine._reserved) == (0, 0, 0)

    on(model, work)
