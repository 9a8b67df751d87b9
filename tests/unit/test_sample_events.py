"""The sample viewing that test_events.py sends."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from uuid import uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

import test_events as sample

DAY = sample.DAY
TODAY = 20_000
NOON = TODAY * DAY + DAY // 2
END_OF_DAY = TODAY * DAY + DAY - 1


def made_up(now: int = END_OF_DAY, seed: int = 1) -> sample.Plan:
    return sample.sample_plan(users=5, movies=8, sessions=60, days=3, seed=seed, now=now)


def ratings(count: int = 40, days: int = 900) -> list[sample.Rating]:
    """So many ratings of 7 users, spread over so many days long ago; the last in the evening."""
    last = 12_000 * DAY + 80_000
    return [
        sample.Rating(last - n * (days * DAY // count), str(n % 7), str(n % 11), 0.5 + n % 10 / 2)
        for n in range(count)
    ]


def sent(plan: sample.Plan, now: int) -> tuple[list[sample.Event], sample.Totals]:
    totals = sample.Totals()
    return list(sample.happened(sample.in_order(plan.sessions), now, totals)), totals


def starts(events: list[sample.Event]) -> list[sample.Event]:
    return [event for event in events if event.event_type is sample.Kind.START]


def test_the_same_flags_give_the_same_events_at_any_time_of_the_day() -> None:
    late, _ = sent(made_up(now=END_OF_DAY), END_OF_DAY)
    early, _ = sent(made_up(now=NOON), END_OF_DAY)
    assert late == early


def test_another_seed_gives_other_viewing() -> None:
    one, _ = sent(made_up(seed=1), END_OF_DAY)
    other, _ = sent(made_up(seed=2), END_OF_DAY)
    assert {event.event_id for event in one}.isdisjoint(event.event_id for event in other)


def test_each_event_has_an_id_of_its_own() -> None:
    events, _ = sent(made_up(), END_OF_DAY)
    assert len({event.event_id for event in events}) == len(events)
    first = next(made_up().sessions)
    ids = [event.event_id for event in sample.events_of(first)]
    assert ids == [uuid5(first.id, str(number)) for number in range(len(ids))]


@pytest.mark.parametrize(
    "plan",
    [made_up(), sample.replay_plan(ratings(), squeeze=30, seed=1, now=NOON)],
    ids=["made up", "replayed"],
)
def test_a_session_is_one_start_then_progress_then_at_most_one_finish(plan: sample.Plan) -> None:
    for session in plan.sessions:
        events = list(sample.events_of(session))
        kinds = [event.event_type for event in events]
        assert kinds[0] is sample.Kind.START
        assert set(kinds[1:-1]) <= {sample.Kind.PROGRESS}
        assert sample.Kind.START not in kinds[1:]
        assert all(one.timestamp <= other.timestamp for one, other in pairwise(events))
        assert all(0 <= e.position_seconds <= sample.film_seconds(e.movie_id) for e in events)


def test_events_come_in_order_of_time_across_sessions() -> None:
    events, _ = sent(made_up(), END_OF_DAY)
    assert all(one.timestamp <= other.timestamp for one, other in pairwise(events))


def test_made_up_viewing_starts_within_its_days() -> None:
    days = {int(e.timestamp.timestamp()) // DAY for e in starts(sent(made_up(), END_OF_DAY)[0])}
    assert days == {TODAY - 2, TODAY - 1, TODAY}


def test_what_has_not_happened_is_counted_and_left_to_a_later_run() -> None:
    everything, _ = sent(made_up(), END_OF_DAY + DAY)
    by_noon, totals = sent(made_up(), NOON)
    assert by_noon == [e for e in everything if e.timestamp.timestamp() <= NOON]
    assert totals.not_yet == len(everything) - len(by_noon) > 0


def test_a_rating_is_one_start_whose_ids_do_not_depend_on_the_seed() -> None:
    events, totals = sent(sample.replay_plan(ratings(), squeeze=30, seed=1, now=NOON), NOON)
    other, _ = sent(sample.replay_plan(ratings(), squeeze=30, seed=2, now=NOON), NOON)
    assert starts(events) == starts(other)
    assert events != other
    assert Counter((e.user_id, e.movie_id) for e in starts(events)) == Counter(
        (sample.user_uuid(one.user), sample.movie_uuid(one.movie)) for one in ratings()
    )
    assert totals.starts == Counter(sample.movie_uuid(one.movie) for one in ratings())


def test_replayed_as_they_are_the_last_is_today_and_what_is_too_old_is_left_out() -> None:
    plan = sample.replay_plan(ratings(), squeeze=None, seed=1, now=END_OF_DAY)
    sessions = list(plan.sessions)
    assert sessions[-1].start == TODAY * DAY + 80_000
    assert sessions[0].start // DAY > TODAY - sample.LONGEST_WINDOW
    assert plan.days == TODAY - sessions[0].start // DAY + 1
    assert plan.too_old == len(ratings()) - len(sessions) > 0


@given(
    first=st.integers(0, 20_000),
    span=st.integers(1, 9_000),
    squeeze=st.integers(2, sample.LONGEST_WINDOW),
    data=st.data(),
)
def test_squeezed_ratings_keep_their_time_of_day_and_order_and_start_before_today(
    first: int, span: int, squeeze: int, data: st.DataObject
) -> None:
    last = first + span - 1
    times = data.draw(st.lists(st.integers(first * DAY, (last + 1) * DAY - 1), min_size=1))
    moved = [sample.moved_start(time, first, last, TODAY, squeeze) for time in sorted(times)]
    assert [start % DAY for start in moved] == [time % DAY for time in sorted(times)]
    days = [start // DAY for start in moved]
    assert days == sorted(days)
    assert TODAY - squeeze + 1 <= days[0]
    assert days[-1] < TODAY


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("userId,movieId,rating\n1,2,3.0\n", "no column timestamp"),
        ("userId,movieId,rating,timestamp\n1,2,3.0,soon\n", "line 2"),
        ("userId,movieId,rating,timestamp\n1,2\n", "line 2"),
        ("userId,movieId,rating,timestamp\n", "holds no ratings"),
        ("", "no column"),
    ],
)
def test_a_file_that_holds_no_ratings_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "ratings.csv"
    file.write_text(text)
    with pytest.raises(sample.UsageError, match=problem):
        sample.read_ratings(file)


def test_titles_with_commas_and_quotes_are_read(tmp_path: Path) -> None:
    file = tmp_path / "movies.csv"
    file.write_text(
        'movieId,title,genres\n11,"American ""President"", The (1995) ",Drama|Comedy\n'
        "12,Nothing,(no genres listed)\n13, ,Drama\n"
    )
    first, second = sample.read_films(file)
    assert first.movie_id == sample.movie_uuid("11")
    assert first.duration_seconds == sample.film_seconds(first.movie_id)
    assert (first.title, first.genres, first.released) == (
        'American "President", The (1995)',
        ["Drama", "Comedy"],
        1995,
    )
    assert (second.title, second.genres, second.released) == ("Nothing", [], None)


def test_made_up_films_have_titles_of_their_own() -> None:
    films = [sample.made_up_film(rank) for rank in range(1, 2001)]
    assert len({film.title for film in films}) == len({film.movie_id for film in films}) == 2000
    plan = made_up()
    events, _ = sent(plan, END_OF_DAY)
    assert set(plan.films) == {event.movie_id for event in events}
