"""Questions are asked at once, and none holds up or ends another."""

import asyncio
import threading
import time

from kci.doctor import examination, threads
from kci.doctor.findings import finding


def question(ask, name="it", limit_s=5.0):
    return examination.Question("area", name, ask, limit_s)


async def well():
    return finding.well("good")


async def test_answers_come_in_the_questions_order_each_with_all_of_its_findings():
    async def two():
        return [finding.well("a"), finding.warning("b", "do")]

    answers = await examination.examine([question(two, "x"), question(well, "y")])
    assert [(one.name, len(one.findings)) for one in answers] == [("x", 2), ("y", 1)]


async def test_what_hangs_or_fails_is_a_finding_and_the_others_are_answered():
    async def hang():
        await asyncio.Event().wait()

    async def fail():
        raise RuntimeError("no such thing")

    async def unsaid():
        raise KeyError

    async def absent():
        raise finding.NotAtHandError("there is none")

    asked = [question(hang, limit_s=0.01), question(fail), question(unsaid), question(absent), question(well)]
    found = [answer.findings[0] for answer in await examination.examine(asked)]
    assert [one.level.value for one in found] == ["wrong", "wrong", "wrong", "not looked at", "ok"]
    assert "not known after 0.01 s" in found[0].text
    assert found[1].text == "it cannot be told: no such thing"
    assert "KeyError" in found[2].text
    assert found[3].text == "because there is none"
    assert all(one.remedy for one in found[:3])


def test_a_thread_that_hangs_holds_up_nobody():
    never = threading.Event()

    async def hang():
        return await threads.in_thread(never.wait)

    begun = time.monotonic()
    (answer,) = asyncio.run(examination.examine([question(hang, limit_s=0.05)]))
    assert time.monotonic() - begun < 3
    assert answer.findings[0].level is finding.Level.WRONG
    never.set()


async def test_a_thread_hands_on_its_result_and_its_error():
    assert await threads.in_thread(divmod, 7, 2) == (3, 1)
    answers = await examination.examine([question(lambda: threads.in_thread(divmod, 1, 0))])
    assert "division" in answers[0].findings[0].text


async def test_questions_that_cannot_be_asked_say_why_one_by_one():
    what = {"a": lambda asked: asked(), "b": lambda asked: asked()}
    answers = await examination.examine(examination.of("area", None, what, why="it is away"))
    assert [(one.name, one.findings[0].text) for one in answers] == [
        ("a", "because it is away"),
        ("b", "because it is away"),
    ]
    answers = await examination.examine(examination.of("area", well, what, why=""))
    assert [one.findings[0].text for one in answers] == ["good", "good"]


def test_only_what_is_wrong_fails():
    def answer(*findings):
        return finding.Answer("area", "it", findings)

    fine = answer(finding.well("a"), finding.warning("b", "do"), finding.unseen("c"))
    assert finding.exit_code([fine]) == 0
    assert finding.exit_code([fine, answer(finding.wrong("d", "do"))]) == 1
    assert finding.exit_code([]) == 0


def test_a_sentence_gives_what_is_wrong_and_what_to_do():
    parted = finding.of_sentence(finding.Level.WRONG, "cannot start: no x; install x", otherwise="y")
    assert (parted.text, parted.remedy) == ("cannot start: no x", "install x")
    whole = finding.of_sentence(finding.Level.WRONG, "cannot start: no x", otherwise="y")
    assert whole.remedy == "y"
