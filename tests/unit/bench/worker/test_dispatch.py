"""Retry, back-off, breaker, routing and fallback, in time that only passes when somebody waits."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trialbench.engines import failures
from trialbench.engines.contract import Constraint, Deadlines, Request
from trialbench.engines.failures import Failure
from trialbench.worker.breaker import Breaker, Pass
from trialbench.worker.dispatch import CallerGoneError, Job
from trialbench.worker.retry import RetryPolicy

RECOVERABLE = [row for row in failures.FAILURES if row.recoverable]
OTHERS = [row for row in failures.FAILURES if not row.recoverable]


def a_job(bench: Any, **fields: Any) -> tuple[Job, list[str]]:
    taken: list[str] = []
    deliver = fields.pop("deliver", lambda token, label: taken.append(f"{label.source}:{token.text}"))
    request = Request(prompt="p", deadlines=fields.pop("deadlines", Deadlines()), **fields)
    return Job(request, bench.clock.now_s(), deliver), taken


def failure_of(row: failures.FailureClass) -> Failure:
    return Failure(row, "x")


# --- retry -----------------------------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(0, 1 << 32))
def test_the_pause_doubles_spreads_and_is_capped(attempt: int, seed: int) -> None:
    policy = RetryPolicy(base_s=1, cap_s=30, jitter=0.2)
    delay_s = policy.delay_s(attempt, random.Random(seed))
    plain_s = 2.0 ** min(attempt, 20)
    assert min(30, plain_s * 0.8) <= delay_s <= min(30, plain_s * 1.2)


@pytest.mark.parametrize("row", RECOVERABLE, ids=lambda row: row.name)
def test_recoverable_failures_are_tried_again(bench: Any, row: failures.FailureClass) -> None:
    engine = bench.Engine([row], [row], ["ok"])
    job, taken = a_job(bench)
    outcome = bench.dispatcher(engine).serve(job)
    assert (outcome.finish_reason, outcome.attempts, taken) == ("stop", 3, ["gemma_local:ok"])
    assert [0.8 <= bench.clock.waits[0] <= 1.2, 1.6 <= bench.clock.waits[1] <= 2.4] == [True, True]


@pytest.mark.parametrize("row", OTHERS, ids=lambda row: row.name)
def test_others_are_not(bench: Any, row: failures.FailureClass) -> None:
    engine = bench.Engine([row], ["ok"])
    job, taken = a_job(bench)
    outcome = bench.dispatcher(engine).serve(job)
    assert (outcome.failure and outcome.failure.failure_class, outcome.attempts, taken) == (row, 1, [])
    assert bench.clock.waits == []


def test_never_again_after_a_token(bench: Any) -> None:
    engine = bench.Engine(["half", failures.TIMEOUT], ["whole"])
    job, taken = a_job(bench)
    outcome = bench.dispatcher(engine, bench.Engine(["elsewhere"])).serve(job)
    assert (outcome.failure and outcome.failure.failure_class, taken) == (failures.TIMEOUT, ["gemma_local:half"])
    assert len(engine.requests) == 1


def test_retries_end(bench: Any) -> None:
    engine = bench.Engine([failures.KILLED])
    outcome = bench.dispatcher(engine, retries=4, failures_to_open=100).serve(a_job(bench)[0])
    assert (outcome.attempts, outcome.failure and outcome.failure.failure_class) == (5, failures.KILLED)
    assert len(bench.clock.waits) == 4


def test_a_cancel_in_a_pause_is_no_failure(bench: Any) -> None:
    engine = bench.Engine([failures.KILLED], ["ok"])
    job, taken = a_job(bench)

    def wait(event: threading.Event, seconds: float) -> bool:
        job.cancel()
        return event.is_set()

    bench.clock.wait = wait
    outcome = bench.dispatcher(engine).serve(job)
    assert (outcome.finish_reason, outcome.failure, outcome.attempts, taken) == ("cancelled", None, 1, [])


def test_a_cancel_before_the_start_asks_nobody(bench: Any) -> None:
    engine = bench.Engine()
    job, _ = a_job(bench)
    job.cancel()
    outcome = bench.dispatcher(engine).serve(job)
    assert (outcome.finish_reason, engine.requests, outcome.attempts) == ("cancelled", [], 0)


def test_a_cancel_within_the_generation_reaches_the_engine(bench: Any) -> None:
    job, taken = a_job(bench)
    engine = bench.Engine(["a", lambda generation: job.cancel(), "b"])
    outcome = bench.dispatcher(engine).serve(job)
    assert (outcome.finish_reason, taken) == ("cancelled", ["gemma_local:a"])
    assert bench.dispatcher(engine).router.local.breaker.state == "closed"


def test_a_cancel_between_start_and_attach_reaches_the_engine_too(bench: Any) -> None:
    engine = bench.Engine(["a"])
    job, taken = a_job(bench)
    start = engine.start

    def start_then_cancel(request: Request) -> Any:
        generation = start(request)
        job.cancel()
        return generation

    engine.start = start_then_cancel
    assert bench.dispatcher(engine).serve(job).finish_reason == "cancelled"
    assert taken == []


def test_a_caller_who_is_gone_ends_the_generation(bench: Any) -> None:
    engine = bench.Engine(["a", "b", "c"])

    def deliver(token: Any, label: Any) -> None:
        raise CallerGoneError

    dispatcher = bench.dispatcher(engine)
    outcome = dispatcher.serve(a_job(bench, deliver=deliver)[0])
    assert (outcome.finish_reason, outcome.failure) == (None, None)
    assert engine.generations[0].canceled.is_set()
    assert engine.ended == 1
    assert bench.logged[-1][1]["end"] == "caller_gone"


def test_an_engine_that_raises_gives_an_error_and_not_a_crash(bench: Any) -> None:
    engine = bench.Engine([ValueError("boom")], ["ok"])
    outcome = bench.dispatcher(engine).serve(a_job(bench)[0])
    assert outcome.failure == Failure(failures.SERVER_ERROR, "ValueError: boom")
    assert engine.ended == 1


def test_events_without_an_end_are_an_error(bench: Any) -> None:
    engine = bench.Engine()

    class Endless(type(engine.start(Request(prompt="x")))):  # type: ignore[misc]
        def events(self) -> Any:
            return iter(())

    engine.start = lambda request: Endless(engine, request, ["x"])
    outcome = bench.dispatcher(engine).serve(a_job(bench)[0])
    assert outcome.failure
    assert outcome.failure.detail == "the engine's events stopped without Done or Failed"


def test_what_an_engine_can_t_do_is_refused_by_name_and_asked_nowhere_else(bench: Any) -> None:
    local, other = bench.Engine(), bench.Engine(source="openai_compatible")
    outcome = bench.dispatcher(local, other).serve(a_job(bench, constraint=Constraint(grammar="root ::= x"))[0])
    assert outcome.failure
    assert outcome.failure.failure_class is failures.UNSUPPORTED
    assert "constrained decoding by grammar" in outcome.failure.detail
    assert other.requests == []


# --- reconnection ----------------------------------------------------------------------------------------------------


def test_a_retry_waits_until_the_engine_is_well_again(bench: Any) -> None:
    engine = bench.Engine([failures.CONNECTION], ["ok"])
    engine.health = [failure_of(failures.CONNECTION)] * 7 + [None]
    outcome = bench.dispatcher(engine).serve(a_job(bench)[0])
    assert (outcome.finish_reason, outcome.attempts) == ("stop", 2)
    assert bench.clock.waits[1:] == [0.5] * 7


def test_reconnection_is_bounded(bench: Any) -> None:
    engine = bench.Engine([failures.CONNECTION], ["ok"])
    engine.health = [failure_of(failures.UNAVAILABLE)]
    outcome = bench.dispatcher(engine, retries=1, reconnect_wait_s=30).serve(a_job(bench)[0])
    assert outcome.failure
    assert outcome.failure.failure_class is failures.UNAVAILABLE
    assert "not back within 30 s" in outcome.failure.detail
    assert outcome.attempts == 1
    assert 30 <= sum(bench.clock.waits[1:]) <= 30.5


def test_a_crash_is_not_tried_again_but_the_next_request_waits_for_the_restart(bench: Any) -> None:
    engine = bench.Engine([failures.CRASHED], ["ok"])
    dispatcher = bench.dispatcher(engine)
    assert dispatcher.serve(a_job(bench)[0]).failure
    engine.health = [failure_of(failures.UNAVAILABLE), None]
    assert dispatcher.serve(a_job(bench)[0]).finish_reason == "stop"
    assert bench.clock.waits == [0.5]


def test_a_cancel_ends_the_wait_for_a_restart(bench: Any) -> None:
    engine = bench.Engine([failures.CRASHED], ["ok"])
    dispatcher = bench.dispatcher(engine)
    dispatcher.serve(a_job(bench)[0])
    engine.health = [failure_of(failures.UNAVAILABLE)]
    job, _ = a_job(bench)
    bench.clock.wait = lambda event, seconds: (job.cancel(), True)[1]
    assert dispatcher.serve(job).finish_reason == "cancelled"


# --- breaker ---------------------------------------------------------------------------------------------------------


def test_the_breaker_opens_lets_one_try_and_closes(bench: Any) -> None:
    engine = bench.Engine([failures.CRASHED], [failures.CRASHED], [failures.CRASHED], ["ok"])
    dispatcher = bench.dispatcher(engine)
    for _ in range(3):
        dispatcher.serve(a_job(bench)[0])
    outcome = dispatcher.serve(a_job(bench)[0])
    assert outcome.failure
    assert outcome.failure.failure_class is failures.UNAVAILABLE
    assert outcome.failure.detail == "circuit breaker open for another 30.0 s (3 failures in a row, last crashed)"
    assert (outcome.attempts, len(engine.requests)) == (0, 3)
    bench.clock.move(31)
    assert dispatcher.serve(a_job(bench)[0]).finish_reason == "stop"
    assert dispatcher.router.local.breaker.as_dict() == {"state": "closed", "failures": 0, "last": None}


def test_a_failed_try_opens_it_again(bench: Any) -> None:
    breaker = Breaker(bench.clock, failures=1, open_s=10)
    first = breaker.admit()
    assert isinstance(first, Pass)
    breaker.failed(first, failure_of(failures.KILLED))
    assert breaker.state == "open"
    bench.clock.move(10)
    assert breaker.state == "half_open"
    admitted = breaker.admit()
    assert admitted == Pass(decides=True)
    assert "one request is trying it" in str(breaker.admit())
    breaker.failed(Pass(decides=False), failure_of(failures.KILLED))
    assert breaker.state == "half_open", "one that was admitted long ago decides nothing"
    breaker.failed(Pass(decides=True), failure_of(failures.KILLED))
    assert breaker.state == "open"
    bench.clock.move(10)
    withdrawn = breaker.admit()
    assert isinstance(withdrawn, Pass)
    breaker.withdrew(withdrawn)
    assert isinstance(breaker.admit(), Pass)


def test_the_caller_s_own_mistakes_never_open_it(bench: Any) -> None:
    engine = bench.Engine([failures.PROMPT_TOO_LONG])
    dispatcher = bench.dispatcher(engine)
    for _ in range(10):
        outcome = dispatcher.serve(a_job(bench)[0])
        assert outcome.failure
        assert outcome.failure.failure_class is failures.PROMPT_TOO_LONG


def test_who_is_in_a_haste_opens_it_for_nobody_else(bench: Any) -> None:
    patience = Deadlines(first_s=20, between_s=20, total_s=60)
    engine = bench.Engine([failures.TIMEOUT])
    dispatcher = bench.dispatcher(engine, retries=0, patience=patience)
    for hasty in ({"first_s": 0.1}, {"between_s": 0.1}, {"total_s": 0.1}, {"first_s": 19.0, "total_s": 1000.0}) * 2:
        outcome = dispatcher.serve(a_job(bench, deadlines=Deadlines(**hasty))[0])
        assert outcome.failure
        assert outcome.failure.failure_class is failures.TIMEOUT
    assert dispatcher.router.local.breaker.state == "closed"
    # Who waits as long as is configured, or longer, has learned something.
    for patient in (patience, Deadlines(), Deadlines(first_s=100, between_s=20, total_s=3600)):
        dispatcher.serve(a_job(bench, deadlines=patient)[0])
    assert dispatcher.router.local.breaker.state == "open"
    # What is not a matter of time counts in any case.
    engine = bench.Engine([failures.KILLED])
    dispatcher = bench.dispatcher(engine, retries=2, patience=patience)
    dispatcher.serve(a_job(bench, deadlines=Deadlines(total_s=0.1))[0])
    assert dispatcher.router.local.breaker.state == "open"


def test_retries_stop_where_the_breaker_opens(bench: Any) -> None:
    engine = bench.Engine([failures.KILLED])
    outcome = bench.dispatcher(engine, retries=9).serve(a_job(bench)[0])
    assert outcome.attempts == 3
    assert outcome.failure
    assert outcome.failure.failure_class is failures.KILLED
    assert outcome.route[-1].startswith("no further attempt: circuit breaker open")


# --- routing and fallback --------------------------------------------------------------------------------------------


def test_without_a_fallback_nothing_goes_elsewhere_and_the_clock_does_not_shorten_it(bench: Any) -> None:
    engine = bench.Engine([40.0, "late but here"])
    job, taken = a_job(bench)
    outcome = bench.dispatcher(engine).serve(job)
    assert (outcome.finish_reason, outcome.fallback, taken) == ("stop", False, ["gemma_local:late but here"])
    assert engine.requests[0].deadlines == Deadlines()


def test_no_token_in_time_and_the_fallback_answers_labeled(bench: Any) -> None:
    local, other = bench.Engine([40.0, "late"]), bench.Engine(["fast"], source="openai_compatible", model="big")
    job, taken = a_job(bench)
    outcome = bench.dispatcher(local, other).serve(job)
    assert taken == ["openai_compatible:fast"]
    assert outcome.label == other.label
    assert (outcome.fallback, outcome.attempts) == (True, 2)
    assert local.requests[0].deadlines.first_s == 30
    assert bench.clock.now_s() == 1030
    assert outcome.route == (
        "local: the local engine is healthy",
        "fallback0: no token within 30 s after the request came in",
    )
    assert [fields["reason"] for event, fields in bench.logged if event == "route"] == [
        "the local engine is healthy",
        "no token within 30 s after the request came in",
    ]


def test_a_fallback_s_own_timeout_bounds_its_reply_and_no_other(bench: Any) -> None:
    local = bench.Engine([failures.CRASHED])
    other = bench.Engine(["x"], ["y"], source="openai_compatible")
    dispatcher = bench.dispatcher(local, other)
    dispatcher.router.fallbacks[0].limit_s = 7
    dispatcher.serve(a_job(bench)[0])
    dispatcher.serve(a_job(bench, deadlines=Deadlines(total_s=5))[0])
    assert [request.deadlines.total_s for request in local.requests] == [60, 5]
    assert [request.deadlines.total_s for request in other.requests] == [7, 5], "the shorter of the two"


def test_what_comes_of_a_fallback_without_a_generation_is_labeled_too(bench: Any) -> None:
    other = bench.Engine([failures.CONNECTION], source="openai_compatible")
    dispatcher = bench.dispatcher(None, other, reconnect_wait_s=30)
    other.health = [None, failure_of(failures.CONNECTION)]
    outcome = dispatcher.serve(a_job(bench)[0])
    assert "not back within 30 s" in outcome.failure.detail
    assert outcome.fallback
    job, _ = a_job(bench)

    def wait(event: threading.Event, seconds: float) -> bool:
        job.cancel()
        return event.is_set()

    bench.clock.wait = wait
    other.health = [None]
    outcome = bench.dispatcher(None, other).serve(job)
    assert (outcome.finish_reason, outcome.fallback) == ("cancelled", True)


def test_retries_leave_room_for_the_fallback(bench: Any) -> None:
    local = bench.Engine([20.0, failures.KILLED], [40.0, "late"])
    other = bench.Engine(["fast"], source="openai_compatible")
    outcome = bench.dispatcher(local, other).serve(a_job(bench)[0])
    assert outcome.fallback
    assert bench.clock.now_s() == pytest.approx(1030)
    assert [0 < request.deadlines.first_s <= 30 for request in local.requests] == [True, True]


def test_an_engine_that_is_not_well_is_not_asked_where_somebody_else_is(bench: Any) -> None:
    local, other = bench.Engine(), bench.Engine(["x"], source="openai_compatible")
    local.health = [failure_of(failures.MISSING_BINARY)]
    outcome = bench.dispatcher(local, other).serve(a_job(bench)[0])
    assert (outcome.fallback, local.requests) == (True, [])
    assert outcome.route == ("fallback0: the local engine is unhealthy: missing_binary",)


def test_health_is_asked_once_in_a_while(bench: Any) -> None:
    local = bench.Engine()
    dispatcher = bench.dispatcher(local, bench.Engine())
    for _ in range(5):
        dispatcher.serve(a_job(bench)[0])
    assert local.health_asked == 1
    bench.clock.move(3)
    dispatcher.serve(a_job(bench)[0])
    assert local.health_asked == 2


def test_fallbacks_are_asked_in_order_past_those_that_can_t(bench: Any) -> None:
    first, second, third = (bench.Engine(source="openai_compatible", model=name) for name in "abc")
    local = bench.Engine([failures.MISSING_BINARY])
    first.health = [failure_of(failures.CONNECTION)]
    second.acts = [[failures.NOT_ALLOWED]]
    outcome = bench.dispatcher(local, first, second, third).serve(a_job(bench)[0])
    assert outcome.label
    assert outcome.label.model == "c"
    assert outcome.route[1:] == (
        "fallback1: local failed: missing_binary; fallback0 is unhealthy: connection",
        "fallback2: fallback1 failed: not_allowed",
    )


def test_when_nobody_is_left_the_last_failure_is_the_end(bench: Any) -> None:
    other = bench.Engine([failures.NOT_ALLOWED], source="openai_compatible")
    outcome = bench.dispatcher(bench.Engine([failures.MISSING_BINARY]), other).serve(a_job(bench)[0])
    assert outcome.failure
    assert outcome.failure.failure_class is failures.NOT_ALLOWED
    assert outcome.route[-1] == "fallback0 failed: not_allowed; no other engine is left to ask"


@pytest.mark.parametrize("row", [failures.EMPTY_OUTPUT, failures.BAD_ARGUMENTS, failures.PROMPT_TOO_LONG])
def test_what_is_indeterminate_or_the_caller_s_fault_is_not_hidden_by_a_fallback(bench: Any, row: Any) -> None:
    other = bench.Engine()
    outcome = bench.dispatcher(bench.Engine([row]), other).serve(a_job(bench)[0])
    assert (outcome.failure and outcome.failure.failure_class, other.requests) == (row, [])


def test_force_local_never_falls_back(bench: Any) -> None:
    other = bench.Engine()
    outcome = bench.dispatcher(bench.Engine([failures.CRASHED]), other, mode="force_local").serve(a_job(bench)[0])
    assert outcome.failure
    assert outcome.failure.failure_class is failures.CRASHED
    assert other.requests == []


def test_force_fallback_never_asks_the_local_engine(bench: Any) -> None:
    local, other = bench.Engine(), bench.Engine(source="openai_compatible")
    outcome = bench.dispatcher(local, other, mode="force_fallback").serve(a_job(bench)[0])
    assert (outcome.route, local.requests) == (("fallback0: mode is force_fallback",), [])


def test_a_local_engine_that_is_switched_off(bench: Any) -> None:
    other = bench.Engine(source="openai_compatible")
    assert bench.dispatcher(None, other).serve(a_job(bench)[0]).route == (
        "fallback0: the local engine is switched off",
    )
    outcome = bench.dispatcher(None).serve(a_job(bench)[0])
    assert outcome.failure
    assert "no fallback is configured" in outcome.failure.detail


def test_an_open_breaker_sends_requests_elsewhere(bench: Any) -> None:
    local = bench.Engine([failures.CRASHED])
    other = bench.Engine(["x"], source="openai_compatible")
    dispatcher = bench.dispatcher(local, other, failures_to_open=1)
    dispatcher.serve(a_job(bench)[0])
    outcome = dispatcher.serve(a_job(bench)[0])
    assert outcome.route[0].startswith("fallback0: circuit breaker open")
    assert len(local.requests) == 1


def test_one_that_waited_too_long_goes_elsewhere_at_once(bench: Any) -> None:
    local, other = bench.Engine(), bench.Engine(["x"], source="openai_compatible")
    job, _ = a_job(bench)
    bench.clock.move(31)
    outcome = bench.dispatcher(local, other).serve(job)
    assert (outcome.fallback, local.requests) == (True, [])


def test_one_that_waited_too_long_gets_the_local_engine_when_nobody_else_can(bench: Any) -> None:
    local, other = bench.Engine(["x"]), bench.Engine(source="openai_compatible")
    other.health = [failure_of(failures.CONNECTION)]
    job, taken = a_job(bench)
    bench.clock.move(31)
    outcome = bench.dispatcher(local, other).serve(job)
    assert (outcome.finish_reason, taken) == ("stop", ["gemma_local:x"])
    assert local.requests[0].deadlines == Deadlines()


def test_a_fallback_with_an_open_breaker_is_passed_over(bench: Any) -> None:
    local, other = bench.Engine([failures.BAD_WEIGHTS]), bench.Engine([failures.NOT_ALLOWED])
    dispatcher = bench.dispatcher(local, other)
    dispatcher.router.fallbacks[0].breaker._opened_s = bench.clock.now_s()
    outcome = dispatcher.serve(a_job(bench)[0])
    assert outcome.failure
    assert outcome.failure.failure_class is failures.BAD_WEIGHTS
    assert "fallback0: circuit breaker open" in outcome.route[-1]


def test_the_log_holds_neither_prompt_nor_reply(bench: Any) -> None:
    dispatcher = bench.dispatcher(bench.Engine([failures.KILLED], ["a secret reply"]))
    job = Job(Request(prompt="a secret prompt"), bench.clock.now_s(), lambda token, label: None)
    dispatcher.serve(job, name="r1")
    assert "secret" not in str(bench.logged)
    event, fields = bench.logged[-1]
    assert (event, fields["request"], fields["end"], fields["source"], fields["attempts"]) == (
        "end",
        "r1",
        "stop",
        "gemma_local",
        2,
    )


def test_refused_by_the_engine(bench: Any) -> None:
    engine = bench.Engine(["refuse"])
    outcome = bench.dispatcher(engine).serve(a_job(bench)[0])
    assert outcome.failure
    assert outcome.failure.failure_class is failures.BAD_ARGUMENTS
