"""Answers are shared by all who may have them, and by nobody else."""

import asyncio
import json
import random

import pytest
from pydantic import BaseModel

from app.services import answers as answers_module
from app.services.answers import Answers


class Figure(BaseModel):
    number: int


class Text(BaseModel):
    text: str


class Store:
    """Holds a number, which a computation reads when it begins; it takes a while to say it."""

    def __init__(self, *, known: bool = True) -> None:
        self.number = 0
        self.computations = 0
        self.at_once = 0
        self._known = known

    def version(self) -> int | None:
        return self.number if self._known else None

    async def compute(self, pauses: int = 3) -> Figure:
        self.computations += 1
        self.at_once += 1
        assert self.at_once == 1, "two computations of one question at a time"
        read = self.number
        for _ in range(pauses):
            await asyncio.sleep(0)
        self.at_once -= 1
        return Figure(number=read)


async def number(answers: Answers, store: Store, question: str = "how many") -> int:
    answer: int = json.loads(await answers.get(question, store.compute))["number"]
    return answer


async def test_an_answer_is_kept_until_something_is_written() -> None:
    store = Store()
    answers = Answers(store.version)
    assert [await number(answers, store) for _ in range(5)] == [0] * 5
    assert store.computations == 1
    store.number = 1
    assert [await number(answers, store) for _ in range(5)] == [1] * 5
    assert store.computations == 2


async def test_an_answer_is_not_kept_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "_KEPT_SECONDS", 0.02)
    store = Store()
    answers = Answers(store.version)
    await number(answers, store)
    await asyncio.sleep(0.03)
    await number(answers, store)
    assert store.computations == 2


async def test_what_is_kept_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "_KEPT_BYTES", 10_000)
    answers = Answers(lambda: 0)

    async def compute() -> Text:
        return Text(text="x" * 1_000)

    most = 0
    for question in range(100):
        await answers.get(question, compute)
        most = max(most, sum(answers.kept(one) is not None for one in range(100)))
    assert 5 < most < 10
    # One that is computed again takes the room that it had.
    monkeypatch.setattr(answers_module, "_KEPT_SECONDS", 0.0)
    again = Answers(lambda: 0)
    for _ in range(100):
        await again.get("again", compute)
    monkeypatch.setattr(answers_module, "_KEPT_SECONDS", 60.0)
    for question in range(5):
        await again.get(question, compute)
    assert all(again.kept(one) is not None for one in range(5))


async def test_those_who_ask_at_the_same_time_share_a_computation() -> None:
    store = Store()
    answers = Answers(store.version)
    assert await asyncio.gather(*(number(answers, store) for _ in range(50))) == [0] * 50
    assert store.computations == 1


async def test_questions_that_differ_have_answers_of_their_own() -> None:
    stores = [Store(), Store()]
    stores[1].number = 7
    answers = Answers(lambda: 0)
    asked = (number(answers, store, f"of {place}") for place, store in enumerate(stores))
    assert await asyncio.gather(*asked) == [0, 7]


async def test_nothing_is_kept_where_others_write_too() -> None:
    store = Store(known=False)
    answers = Answers(store.version)
    await number(answers, store)
    await number(answers, store)
    assert store.computations == 2


async def test_too_many_answers_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "_KEPT_ANSWERS", 10)
    store = Store()
    answers = Answers(store.version)
    for question in range(200):
        await number(answers, store, str(question))
        assert len(answers._kept) <= 11


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("seed", range(30))
async def test_what_was_written_before_the_question_is_in_the_answer(
    known: bool, seed: int
) -> None:
    """With writes, questions, and people who go away, at any moment."""
    dice = random.Random(seed)
    store = Store(known=known)
    answers = Answers(store.version)

    async def ask() -> None:
        for _ in range(dice.randrange(6)):
            await asyncio.sleep(0)
        written = store.number
        assert written <= await number(answers, store) <= store.number

    async def write() -> None:
        for _ in range(40):
            for _ in range(dice.randrange(5)):
                await asyncio.sleep(0)
            store.number += 1

    writing = asyncio.create_task(write())
    asking = [asyncio.create_task(ask()) for _ in range(200)]
    while not writing.done():
        await asyncio.sleep(0)
        if dice.random() < 0.2:
            dice.choice(asking).cancel()
        asking += [asyncio.create_task(ask()) for _ in range(dice.randrange(3))]
    results = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(one) for one in results} <= {type(None), asyncio.CancelledError}
    assert await number(answers, store) == store.number


async def test_all_who_wait_are_told_of_a_failure_and_the_next_try_is_anew() -> None:
    async def fail() -> Figure:
        await asyncio.sleep(0)
        raise ValueError("no")

    answers = Answers(lambda: 0)
    asked = (answers.get("?", fail) for _ in range(3))
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [str(one) for one in results] == ["no"] * 3
    assert await number(answers, Store(), "?") == 0
