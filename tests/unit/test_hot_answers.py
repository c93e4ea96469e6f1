"""Answers kept for a moment: only small ones, only so many."""

import time

from starlette.responses import Response

from gateway.api.hot_answers import KEPT_ANSWERS, LARGEST_BYTES, HotAnswers


def test_a_kept_answer_is_given_until_its_moment_is_over() -> None:
    answers = HotAnswers()
    answers.keep("now", Response(b"[]", headers={"X-Source": "redis"}), time.monotonic())
    answers.keep("then", Response(b"[]"), time.monotonic() - 60)
    found = answers.find("now")
    assert found is not None
    assert (found.body, found.headers["x-source"]) == (b"[]", "redis")
    assert answers.find("then") is None


def test_what_is_kept_has_a_limit_in_bytes_and_number() -> None:
    answers, now = HotAnswers(), time.monotonic() + 60
    answers.keep("large", Response(b" " * (LARGEST_BYTES + 1)), now)
    assert answers.find("large") is None
    for number in range(3 * KEPT_ANSWERS):
        answers.keep(number, Response(b"[]"), now)
    held = sum(answers.find(number) is not None for number in range(3 * KEPT_ANSWERS))
    assert 0 < held <= KEPT_ANSWERS
    assert answers.find(3 * KEPT_ANSWERS - 1) is not None
