"""Ids: they rise, they are unguessable, and whatever arq's producers chose finds its way back."""

from __future__ import annotations

import itertools
import re
import string
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as some

from gateway import tasks
from gateway.tasks import ID, JOB_TYPE, MAX_ID_CHARS, MAX_PARTITIONS, IdParts, Ulids, public_id, split_id

_ULID = re.compile(r"[0-9a-hjkmnp-tv-z]{26}")
_TAG = "{default:demo}"
job_types = some.from_regex(JOB_TYPE, fullmatch=True)


@pytest.mark.parametrize("name", ["JOB_TYPE", "TENANT", "WORKER_ID", "ID"])
def test_a_rule_in_words_says_what_its_pattern_does(name: str) -> None:
    pattern, rule = getattr(tasks, name), getattr(tasks, f"{name}_RULE")
    said = re.fullmatch(
        r"an? \w+ is 1 to (\d+) letters, digits and ((?:\S )*\S)( and begins with a letter or digit)?", rule
    )
    assert said
    assert pattern.fullmatch("a" * int(said[1]))
    assert not pattern.fullmatch("a" * (int(said[1]) + 1))
    assert not pattern.fullmatch("")
    marks = {mark for mark in string.punctuation + " \n\u00e9" if pattern.fullmatch("a" + mark)}
    assert marks == set(said[2].split())
    assert any(pattern.fullmatch(mark) for mark in marks) is (said[3] is None)


def test_ids_rise_strictly_inside_one_millisecond() -> None:
    ulids = Ulids()
    made = [ulids.make(1_800_000_000_000) for _ in range(10_000)]
    assert all(one < two for one, two in itertools.pairwise(made))
    assert all(_ULID.fullmatch(one) for one in made)


@given(some.lists(some.integers(1, 2**48 - 2), min_size=2, max_size=50))
def test_ids_rise_strictly_whatever_the_clock_does(times: list[int]) -> None:
    ulids = Ulids()
    made = [ulids.make(at_ms) for at_ms in times]
    assert all(one < two for one, two in itertools.pairwise(made))


def test_an_id_starts_with_its_time_and_ends_with_80_random_bits() -> None:
    made = {Ulids().make(1_800_000_000_000) for _ in range(1000)}
    assert len(made) == 1000
    assert {one[:10] for one in made} == {"01mcc5rm00"}
    assert len({one[10:14] for one in made}) > 900


def test_ids_inside_one_millisecond_cannot_be_counted_up() -> None:
    """A tenant that sees its own id must not be able to name the next one."""
    ulids = Ulids()
    numbers = [int.from_bytes(ulids.make(1).encode()) for _ in range(100)]
    steps = {two - one for one, two in itertools.pairwise(numbers)}
    assert len(steps) == 99


def test_ids_take_the_time_of_day_when_no_clock_is_known() -> None:
    assert Ulids().make() > Ulids().make(1_700_000_000_000)


@given(job_types)
def test_an_id_of_ours_is_split_into_what_it_was_made_of(job_type: str) -> None:
    ulid = Ulids().make()
    task_id = public_id(job_type, f"{{default:{job_type}}}{ulid}", f"{{default:{job_type}}}")
    assert task_id == f"{job_type}~{ulid}"
    assert split_id(task_id) == IdParts(job_type, ulid)
    assert ID.fullmatch(task_id)


@given(some.binary(min_size=1, max_size=200))
def test_an_id_of_a_plain_arq_producer_finds_its_way_back_byte_for_byte(raw: bytes) -> None:
    arq_id = raw.decode("utf-8", "surrogateescape")
    task_id = public_id("demo", arq_id, _TAG)
    assert split_id(task_id) == IdParts("demo", arq_id, plain=True)
    assert re.fullmatch(r"demo~~[A-Za-z0-9_-]+", task_id)


@pytest.mark.parametrize(
    "arq_id", ["a", "a b", "a/b?c#d", "ä€😀", "{other}x", "~", "~~", "\n", "x" * 140, "2024-01-01T00:00"]
)
def test_odd_ids_can_stand_in_a_url(arq_id: str) -> None:
    task_id = public_id("demo", arq_id, _TAG)
    assert ID.fullmatch(task_id)
    assert len(task_id) <= MAX_ID_CHARS
    assert split_id(task_id) == IdParts("demo", arq_id, plain=True)


def test_two_arq_ids_never_share_a_public_one() -> None:
    names = ["a", "a=", "a==", "aa", "~a", "YQ", "A", " a", "a "]
    assert len({public_id("demo", name, _TAG) for name in names}) == len(names)


@pytest.mark.parametrize(
    "task_id",
    [
        "", "~", "~~", "demo", "demo~", "demo~~", "~x", "~~x", "demo~a~b", "demo~~~", "demo~~a~b", "demo~~a b",
        "demo~3.", "demo~32.x", "demo~99.x", "demo~3.~", "demo~3.a~b",
        "demo~~=", "demo~~ä", "-demo~x", "de mo~x", "demo~~A", "x" * 129 + "~x", "\n~x", "demo\n~x",
    ],
)  # fmt: skip
def test_what_no_task_can_be_called_is_told_apart(task_id: str) -> None:
    assert split_id(task_id) is None


@given(some.integers(1, MAX_PARTITIONS - 1), some.binary(min_size=1, max_size=90))
def test_an_id_names_its_partition(partition: int, raw: bytes) -> None:
    tag = f"{{default:demo/{partition}}}"
    ulid = Ulids().make()
    assert split_id(public_id("demo", tag + ulid, tag)) == IdParts("demo", ulid, partition=partition)
    arq_id = raw.decode("utf-8", "surrogateescape")
    assert split_id(public_id("demo", arq_id, tag)) == IdParts("demo", arq_id, plain=True, partition=partition)


def test_a_slash_of_a_key_prefix_is_no_partition() -> None:
    ulid = Ulids().make()
    assert public_id("12", f"{{x/default:12}}{ulid}", "{x/default:12}") == f"12~{ulid}"


@given(some.text(max_size=60))
def test_splitting_any_text_never_fails(text: str) -> None:
    parts = split_id(text)
    assert parts is None or JOB_TYPE.fullmatch(parts.job_type)


@given(some.from_regex(r"demo~~[A-Za-z0-9_-]{1,8}", fullmatch=True))
def test_one_task_has_one_id_only(task_id: str) -> None:
    """Another spelling of the same id would be another address of the same task."""
    parts = split_id(task_id)
    if parts is not None and parts.plain and not parts.rest.startswith(f"{{default:{parts.job_type}}}"):
        assert public_id(parts.job_type, parts.rest, f"{{default:{parts.job_type}}}") == task_id


def test_threads_do_not_share_a_maker_but_do_not_collide_either() -> None:
    made: list[str] = []

    def make() -> None:
        ulids = Ulids()
        made.extend(ulids.make(5) for _ in range(1000))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 4000
