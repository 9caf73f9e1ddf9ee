"""Places for readings: never too many, and no machine waits for another that does not answer."""

import asyncio
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.places import Places


class Site:
    """Machines of which some answer nothing until the test lets them."""

    def __init__(self, at_once: int, dead: set[str]) -> None:
        self.places, self.dead, self.at_once = Places(at_once), dead, at_once
        self.wake = asyncio.Event()
        self.under_way: Counter[str] = Counter()
        self.done: Counter[str] = Counter()

    async def one(self, machine: str) -> None:
        async with self.places.on(machine):
            self.under_way[machine] += 1
            assert sum(self.under_way.values()) <= self.at_once
            await (self.wake.wait() if machine in self.dead else asyncio.sleep(0))
            self.under_way[machine] -= 1
            self.done[machine] += 1

    def begin(self, wanted: Mapping[str, int]) -> list["asyncio.Task[None]"]:
        """All the readings, machine by machine: the worst order that there is."""
        self.places.expect(Counter(wanted).elements())
        return [
            asyncio.create_task(self.one(m)) for m, count in wanted.items() for _ in range(count)
        ]


async def settle() -> None:
    for _ in range(500):
        await asyncio.sleep(0)


async def test_two_dead_machines_take_no_place_from_the_living() -> None:
    site = Site(8, {"dead-1", "dead-2"})
    tasks = site.begin({"dead-1": 12, "dead-2": 12, "living": 12})
    await settle()
    assert site.done == {"living": 12}, "none of them waited for the dead"
    assert site.under_way["dead-1"] + site.under_way["dead-2"] <= 8
    site.wake.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 10)
    assert site.done == {"dead-1": 12, "dead-2": 12, "living": 12}


async def test_a_place_is_kept_for_what_was_announced_and_has_not_come_yet() -> None:
    site = Site(4, {"dead"})
    site.places.expect(["living"] * 3)
    tasks = site.begin({"dead": 10})
    await settle()
    assert site.under_way["dead"] == 2
    tasks += [asyncio.create_task(site.one("living")) for _ in range(3)]
    await settle()
    assert site.done["living"] == 3 and site.under_way["dead"] == 4, "and then nothing is idle"
    site.wake.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 10)


async def test_where_all_of_it_fits_all_of_it_is_read_at_once() -> None:
    site = Site(32, {"dead"})
    tasks = site.begin({"dead": 20, "living": 12})
    await settle()
    assert site.under_way["dead"] == 20 and site.done["living"] == 12
    site.wake.set()
    await asyncio.gather(*tasks)


async def test_a_reading_that_is_cancelled_gives_its_place_back() -> None:
    site = Site(2, {"dead"})
    tasks = site.begin({"dead": 4})
    await settle()
    assert site.under_way["dead"] == 2
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    tasks = site.begin({"living": 5})
    site.under_way.clear()
    await asyncio.wait_for(asyncio.gather(*tasks), 10)
    assert site.done == {"living": 5}


async def test_a_reading_that_breaks_gives_its_place_back() -> None:
    places = Places(1)
    for _ in range(3):
        places.expect(["m"])
        with pytest.raises(ZeroDivisionError):
            async with places.on("m"):
                raise ZeroDivisionError


@given(
    st.integers(1, 6),
    st.dictionaries(st.sampled_from("abcde"), st.integers(1, 7), min_size=1),
    st.sets(st.sampled_from("abcde")),
)
def test_the_living_are_read_whoever_is_dead_and_in_the_end_everything_is(
    at_once: int, wanted: dict[str, int], dead: set[str]
) -> None:
    async def main() -> None:
        site = Site(at_once, dead)
        tasks = site.begin(wanted)
        await settle()
        living = {m: n for m, n in wanted.items() if m not in dead}
        if len(wanted) <= at_once:
            assert {m: site.done[m] for m in living} == living
        site.wake.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
        assert site.done == wanted

    asyncio.run(main())
