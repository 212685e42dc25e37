"""The response cache: bounds, time, flushes."""

from hypothesis import given
from hypothesis import strategies as st

from inference_node import cache
from tests.support.clock import FakeClock


def make(clock: FakeClock | None = None, *, max_entries: int = 100, max_bytes: int = 1_000_000) -> cache.ResponseCache:
    return cache.ResponseCache(max_entries=max_entries, max_bytes=max_bytes, ttl_seconds=60, clock=clock or FakeClock())


def where(prompt: str, *, tenant: str = "a", model: str = "m", version: str = "v1", seed: int = 0) -> cache.Address:
    return cache.address(tenant=tenant, model=model, version=version, prompt=prompt, request=[prompt, seed])


def answer(text: str = "text") -> cache.Answer:
    return cache.Answer(text, "stop", 1, 1)


def put(held: cache.ResponseCache, at: cache.Address, text: str = "text") -> bool:
    return held.put(at, answer(text), generation=held.generation)


def test_the_key_holds_everything_that_may_change_the_answer() -> None:
    """Another tenant, model, version or parameter is another answer."""
    keys = {
        where("p").key,
        where("p", tenant="b").key,
        where("p", model="n").key,
        where("p", version="v2").key,
        where("p", seed=1).key,
        where("q").key,
    }
    assert len(keys) == 6


def test_an_entry_ends_with_its_time() -> None:
    """An answer older than the time to live is gone, and so are its bytes."""
    clock = FakeClock()
    held = make(clock)
    put(held, where("p"))
    clock.move(59)
    assert held.get(where("p").key) is not None
    clock.move(1)
    assert held.get(where("p").key) is None
    assert (len(held), held.size_bytes) == (0, 0)


def test_the_least_recently_used_goes_first() -> None:
    """Reading an answer keeps it."""
    held = make(max_entries=2)
    put(held, where("a"))
    put(held, where("b"))
    held.get(where("a").key)
    put(held, where("c"))
    assert held.get(where("a").key) is not None
    assert held.get(where("b").key) is None


def test_flush_by_prefix_and_model_takes_what_matches_both() -> None:
    """Other prompts and other versions stay."""
    held = make()
    for prompt in ("news: a", "news: b", "weather"):
        put(held, where(prompt))
    put(held, where("news: c", version="v2"))
    assert held.flush(prefix="news:", model="v1") == 2
    assert held.flush(model="m") == 2
    assert held.generation == 2


def test_an_answer_computed_across_a_flush_is_not_kept() -> None:
    """What was asked before a flush may be what the flush was to remove."""
    held = make()
    before = held.generation
    held.flush()
    assert not held.put(where("p"), answer(), generation=before)
    assert len(held) == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "get", "flush", "wrong", "move"]), st.integers(0, 9), st.text(max_size=300)),
        max_size=60,
    )
)
def test_the_bounds_hold_whatever_happens(events: list[tuple[str, int, str]]) -> None:
    """Entries and bytes never exceed their bounds, and the byte count is the sum of the entries."""
    clock = FakeClock()
    held = make(clock, max_entries=4, max_bytes=4000)
    for event, number, text in events:
        if event == "put":
            put(held, where(str(number)), text)
        elif event == "get":
            held.get(where(str(number)).key)
        elif event == "flush":
            held.flush(prefix=str(number))
        elif event == "wrong":
            held.replace_texts(lambda old, more=text: old + more)
        else:
            clock.move(number)
        assert len(held) <= 4
        assert held.size_bytes <= 4000
        assert held.size_bytes == sum(entry.size_bytes for entry in held._entries.values())
