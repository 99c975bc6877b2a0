"""The conformance suite finds defects: a backend with one fails the checks that say so, and no others."""

from __future__ import annotations

import pytest
from broken_backends import (
    FollowsLinks,
    Forgets,
    HidesCuts,
    IgnoresTimeouts,
    Leaks,
    LiesAboutStatus,
    RunsOneCallAtATime,
    SharesOneSession,
    ShowsTheHost,
    Undersells,
    Wrapper,
)

from agentrl.errors import NotFound
from agentrl.sandbox.conformance import GROUPS, Suite, Verdict, promises

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("backend", "tried", "expected"),
    [
        (
            LiesAboutStatus,
            [
                "an_exception_is_an_error",
                "code_that_cannot_run_is_an_error",
                "leaving_a_cell_keeps_the_interpreter",
                "a_crash_of_a_cell_is_told",
                "a_crash_of_a_command_is_told",
                "scripts_are_programs_of_their_own",
                "cells_keep_variables",
            ],
            {
                "an_exception_is_an_error",
                "code_that_cannot_run_is_an_error",
                "leaving_a_cell_keeps_the_interpreter",
                "a_crash_of_a_cell_is_told",
            },
        ),
        (
            IgnoresTimeouts,
            ["wall_time_of_a_cell", "cells_keep_variables"],
            {"wall_time_of_a_cell"},
        ),
        (
            Leaks,
            [
                "no_process_is_left_of_a_session",
                "no_file_is_left",
                "a_closed_session_is_not_a_result",
            ],
            {
                "no_process_is_left_of_a_session",
                "a_closed_session_is_not_a_result",
            },
        ),
        (
            Forgets,
            ["cells_keep_variables", "a_last_value_is_printed", "files_go_in_and_out", "odd_output_is_text"],
            {"cells_keep_variables", "a_last_value_is_printed", "files_go_in_and_out", "odd_output_is_text"},
        ),
        (
            FollowsLinks,
            ["paths_outside_are_refused", "links_pipes_and_giants_are_refused", "files_go_in_and_out"],
            {"paths_outside_are_refused", "links_pipes_and_giants_are_refused", "files_go_in_and_out"},
        ),
        (HidesCuts, ["output_is_cut", "a_flood_of_output_is_stopped"], {"output_is_cut"}),
        (
            SharesOneSession,
            ["sessions_do_not_mix", "sessions_share_nothing", "calls_of_a_session_take_turns"],
            {"sessions_do_not_mix", "sessions_share_nothing"},
        ),
        (
            RunsOneCallAtATime,
            ["a_busy_session_holds_up_no_other", "sessions_do_not_mix"],
            {"a_busy_session_holds_up_no_other"},
        ),
        (
            ShowsTheHost,
            ["files-read-canary", "secrets-environment", "files-write-usr"],
            {"files-read-canary", "files-write-usr"},  # the last was not made: it might have hit this machine
        ),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
async def test_a_defect_is_found(
    backend: type[Wrapper], tried: list[str], expected: set[str], isolation: None
) -> None:
    async with Suite(backend, check_seconds=3.0, settle_seconds=1.0) as suite:
        checks = [await suite.check(promise) for promise in promises(tried)]
    failed = {check.name: check.detail for check in checks if not check.ok}
    assert set(failed) == expected, failed


async def test_what_is_declared_is_not_offered_but_attacks_are_made(isolation: None) -> None:
    async with Suite(Undersells) as suite:
        tried = promises(["an_exception_is_an_error", "network-host-loopback", "cells_keep_variables"])
        verdicts = {promise.name: (await suite.check(promise)).verdict for promise in tried}
    assert verdicts == {
        "cells_keep_variables": Verdict.passed,
        "an_exception_is_an_error": Verdict.not_offered,
        "network-host-loopback": Verdict.passed,
    }


def test_every_check_states_its_promise_under_a_name_of_its_own() -> None:
    every = promises()
    assert len({promise.name for promise in every}) == len(every)
    assert all(promise.text and promise.group in GROUPS for promise in every)
    assert {promise.group for promise in every} == set(GROUPS)
    with pytest.raises(NotFound, match="no_such_check"):
        promises(["no_such_check"])
