"""How one data request gets its answer: refused, from the cache, along with an identical one, or from the engine.

Called by the data API and by cache warming. Everything that can refuse comes before anything that costs: readiness and the
level's place before the request is even read, then the cache, and only then tokenizing. A share of the cache hits is computed again in the background and
compared. The node counts mismatches and does not heal itself, because either side may be the wrong one.
Concurrency: one event loop.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass

from inference_node import cache, errors, faults, levels, metrics
from inference_node.engine import engine as engines
from inference_node.engine import generation, sampling
from inference_node.server import controls, protocol

MAX_AUDITS = 16
"""Audits under way at once; further hits go unaudited, so that audits never pile up behind real work."""

RETRY_LOADING_SECONDS = 5
RANKS = {
    levels.Level.PREMIUM: generation.Rank.PREMIUM,
    levels.Level.STANDARD: generation.Rank.STANDARD,
    levels.Level.BATCH: generation.Rank.BATCH,
}


@dataclass(frozen=True, slots=True)
class Call:
    """A request, and on whose behalf."""

    request: protocol.AnyRequest
    tenant: str
    level: levels.Level
    skips_cache: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """The answer was in the cache."""

    answer: cache.Answer


@dataclass(frozen=True, slots=True)
class Live:
    """The answer is being computed, for this request alone or for an equal one; whoever holds the reader must close it."""

    reader: generation.Reader
    is_own: bool = True


class Answering:
    """Answers calls."""

    def __init__(
        self,
        *,
        engine: Callable[[], engines.Engine | None],
        store: cache.ResponseCache,
        places: levels.Levels,
        trouble: faults.Faults,
        switches: controls.Controls,
        counted: metrics.NodeMetrics,
        default_max_tokens: int,
        audit_ratio: float,
        chance: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._store = store
        self._places = places
        self._faults = trouble
        self._controls = switches
        self._metrics = counted
        self._default_max_tokens = default_max_tokens
        self._audit_ratio = audit_ratio
        self._chance = chance
        self._flights: dict[str, generation.Generation] = {}
        self._audits: set[str] = set()

    def enter(self, level: levels.Level) -> levels.Place:
        """Take a place before anything of a request is read; raises DataError 429 or 503."""
        self._ready_engine(level)
        try:
            return self._places.admit(level)
        except errors.DataError:
            self._metrics.rejected.labels(level, "queue_full").inc()
            raise

    def open(self, call: Call, place: levels.Place) -> Stored | Live:
        """Start answering a call; raises DataError when it is refused.

        The place is kept until the work is done, and given back at once by an answer that needs none of its own.
        """
        opened = self._open(call)
        if isinstance(opened, Stored) or not opened.is_own:
            place.give_back()
        else:
            opened.reader.generation.on_done(lambda _: place.give_back())
        return opened

    def waited_too_long(self, level: levels.Level) -> errors.DataError:
        """Count and return the refusal of a request that never joined the batch: nothing was computed for it."""
        self._metrics.rejected.labels(level, "waited_too_long").inc()
        return errors.overloaded(
            f"A request of level {level} waited for its whole time limit; nothing was computed.",
            self._places.retry_after_seconds(level),
        )

    def _open(self, call: Call) -> Stored | Live:
        engine = self._ready_engine(call.level)
        if self._faults.fails_now():
            raise errors.DataError(500, "Injected fault 'errors' failed this request.", kind="server_error")
        _require_model(call.request, engine)
        parameters = self._degraded(call)
        where = self._address(call, parameters, engine)
        found = self._look_up(call, parameters, where, engine)
        if found is not None:
            return found
        cap = self._controls.degradation.cap(call.level)
        if cap.is_cached_only:
            raise self._degraded_away(call.level, "not_cached", "only cached answers are given")
        one = self._submit(call.request, parameters, RANKS[call.level], engine, cap.max_prompt_tokens, call.level)
        if _is_cacheable(call, parameters):
            self._follow(where, one)
        return Live(one.reader())

    async def warm(self, call: Call) -> bool:
        """Make sure the cache holds the answer to a call; False when it cannot be kept or was refused."""
        engine = self._ready_engine(call.level)
        parameters = call.request.parameters(self._default_max_tokens)
        where = self._address(call, parameters, engine)
        if not parameters.is_deterministic:
            return False
        if self._store.get(where.key) is None:
            try:
                _require_model(call.request, engine)
                one = self._submit(call.request, parameters, generation.Rank.BACKGROUND, engine)
                self._follow(where, one)
                with one.reader() as reader:
                    await reader.all()
            except (errors.DataError, errors.EngineFailedError):
                return False
        return self._store.get(where.key) is not None

    def _ready_engine(self, level: levels.Level) -> engines.Engine:
        engine = self._engine()
        if engine is None:
            self._metrics.rejected.labels(level, "loading").inc()
            raise loading()
        if self._controls.is_draining:
            self._metrics.rejected.labels(level, "draining").inc()
            raise errors.unavailable(
                "This node is draining and takes no new requests; use another one.",
                "draining",
                self._controls.retry_after_drain_seconds(),
            )
        if not engine.is_alive:
            self._metrics.rejected.labels(level, "dead").inc()
            raise errors.unavailable(
                "The engine of this node has died; use another node.", "dead", RETRY_LOADING_SECONDS
            )
        return engine

    def _degraded(self, call: Call) -> sampling.Sampling:
        wanted = call.request.parameters(self._default_max_tokens)
        parameters = wanted.capped(self._controls.degradation.cap(call.level).max_tokens)
        if parameters is not wanted:
            self._metrics.degraded.labels(call.level).inc()
        return parameters

    @staticmethod
    def _address(call: Call, parameters: sampling.Sampling, engine: engines.Engine) -> cache.Address:
        kind = "chat" if call.request.is_chat else "text"
        return cache.address(
            tenant=call.tenant,
            model=engine.model.name,
            version=engine.model.version,
            prompt=call.request.text(),
            request=[kind, call.request.content(), asdict(parameters)],
        )

    def _look_up(
        self, call: Call, parameters: sampling.Sampling, where: cache.Address, engine: engines.Engine
    ) -> Stored | Live | None:
        """Return a kept answer, or one being computed for an equal request of the same or a better level."""
        if not _is_cacheable(call, parameters):
            self._metrics.cache_requests.labels("l1", "bypass").inc()
            return None
        entry = self._store.get(where.key)
        flight = self._flights.get(where.key)
        if entry is not None:
            self._count_look_up(is_hit=True)
            self._maybe_audit(call.request, parameters, entry, engine)
            return Stored(entry.answer)
        if flight is not None and not flight.is_cancelled and flight.rank <= RANKS[call.level]:
            self._count_look_up(is_hit=True)
            return Live(flight.reader(), is_own=False)
        self._count_look_up(is_hit=False)
        return None

    def _count_look_up(self, *, is_hit: bool) -> None:
        self._store.hits += is_hit
        self._store.misses += not is_hit
        self._metrics.cache_requests.labels("l1", "hit" if is_hit else "miss").inc()

    def _degraded_away(self, level: levels.Level, reason: str, what: str) -> errors.DataError:
        """Count and return the refusal of what the ladder does not serve at the moment."""
        self._metrics.rejected.labels(level, reason).inc()
        return errors.overloaded(
            f"Under overload {what} at level {level}; retry later.", self._controls.retry_after_degradation_seconds()
        )

    def _submit(
        self,
        request: protocol.AnyRequest,
        parameters: sampling.Sampling,
        rank: generation.Rank,
        engine: engines.Engine,
        max_prompt_tokens: int | None = None,
        level: levels.Level = levels.Level.BATCH,
    ) -> generation.Generation:
        """Tokenize, check against the context and the ladder's cap, and queue."""
        prompt = request.encode(engine.model.tokenizer)
        field = "messages" if request.is_chat else "prompt"
        _check_prompt(prompt, parameters, engine, field)
        if max_prompt_tokens is not None and len(prompt) > max_prompt_tokens:
            said = f"prompts of more than {max_prompt_tokens} tokens are not taken"
            raise self._degraded_away(level, "prompt_capped", said)
        return engine.submit(prompt=prompt, parameters=parameters, rank=rank)

    def _follow(self, where: cache.Address, one: generation.Generation) -> None:
        """Let equal requests join, and keep the answer when it is complete."""
        flushes = self._store.generation
        self._flights[where.key] = one

        def land(done: generation.Generation) -> None:
            if self._flights.get(where.key) is done:
                del self._flights[where.key]
            if done.finish_reason in {"stop", "length"}:
                self._store.put(where, answer_of(done), generation=flushes)

        one.on_done(land)

    def _maybe_audit(
        self,
        request: protocol.AnyRequest,
        parameters: sampling.Sampling,
        entry: cache.Entry,
        engine: engines.Engine,
    ) -> None:
        """Recompute a share of the hits at the lowest priority and count whether the answer was the same."""
        key = entry.address.key
        if len(self._audits) >= MAX_AUDITS or key in self._audits or self._chance() >= self._audit_ratio:
            return
        self._audits.add(key)
        one = self._submit(request, parameters, generation.Rank.BACKGROUND, engine)

        def compare(done: generation.Generation) -> None:
            self._audits.discard(key)
            if done.finish_reason in {"stop", "length"} and done.model.version == entry.address.version:
                result = "match" if done.text == entry.answer.text else "mismatch"
                self._metrics.cache_audits.labels("l1", result).inc()

        one.on_done(compare)


def loading() -> errors.DataError:
    """Return the 503 of a node whose model is still loading."""
    return errors.unavailable("The model is still loading; retry shortly.", "loading", RETRY_LOADING_SECONDS)


def answer_of(done: generation.Generation) -> cache.Answer:
    """Return a finished generation as an answer."""
    return cache.Answer(done.text, done.finish_reason or "", len(done.prompt), done.num_tokens)


def _is_cacheable(call: Call, parameters: sampling.Sampling) -> bool:
    return parameters.is_deterministic and not call.skips_cache


def _require_model(request: protocol.AnyRequest, engine: engines.Engine) -> None:
    if request.model and request.model != engine.model.name:
        raise errors.DataError(
            404,
            f"The model {request.model!r} is not served here; this node serves {engine.model.name!r}.",
            param="model",
            code="model_not_found",
        )


def _check_prompt(prompt: list[int], parameters: sampling.Sampling, engine: engines.Engine, field: str) -> None:
    model = engine.model
    if not prompt:
        raise errors.DataError(400, f"{field}: has no tokens; send at least one character.", param=field)
    if max(prompt) >= model.vocab_size:
        raise errors.DataError(
            400, f"{field}: token {max(prompt)} is outside the vocabulary of {model.vocab_size}.", param=field
        )
    wanted = len(prompt) + parameters.max_tokens
    if wanted > model.max_context_tokens:
        raise errors.DataError(
            400,
            f"{field}: {len(prompt)} prompt tokens and {parameters.max_tokens} completion tokens make {wanted}, more than "
            f"the context of {model.max_context_tokens}; shorten the prompt or lower max_tokens.",
            param=field,
            code="context_length_exceeded",
        )
