"""What a machine says of itself before a sweep works there, and what the driver makes of it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import s3_server
import torch

from distsim.store import Lease, Storage
from distsim.sweep import preflight
from distsim.sweep.preflight import Answer, Question, answer_of, examine, judged, refusal, said

SIGN = ("lease/000001.json", b"this store")


@pytest.fixture(scope="module")
def here() -> dict[str, object]:
    return preflight.about_here("cpu")


@pytest.fixture
def root(tmp_path: Path) -> Storage:
    made = Storage(tmp_path / "store")
    made.put(*SIGN)
    return made


def test_this_machine_is_fit(root: Storage, here: dict[str, object]) -> None:
    answer = examine(Question(root, SIGN))
    assert answer == {"facts": here | {"memory": answer["facts"]["memory"]}, "unfit": []}
    assert here["torch"] == torch.__version__
    assert list(root.sizes()) == [SIGN[0]], "nothing is left in the store"


def test_what_it_lacks_is_a_sentence(root: Storage, tmp_path: Path) -> None:
    (few,) = examine(Question(threads=10_000))["unfit"]
    assert few.startswith("it has ")
    assert few.endswith(" cores for 10000 threads (--threads)")
    other = Storage(tmp_path / "other")
    other.put(SIGN[0], b"a store of this machine's own")
    for elsewhere in (other, Storage(tmp_path / "none")):
        (unseen,) = examine(Question(elsewhere, SIGN))["unfit"]
        assert unseen.startswith(
            f"it does not see in {elsewhere.url} what was written from where the sweep was started"
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_a_sentence() -> None:
    assert examine(Question(device="cuda"))["unfit"] == ["PyTorch finds no GPU (--device cuda)"]


def test_a_store_that_may_only_be_read_is_a_sentence(root: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, content: bytes) -> bool:
        raise preflight.StorageError(f"cannot write {path} in {root.url}: Permission denied")

    monkeypatch.setattr(root, "create", refuse)
    (sentence,) = examine(Question(root, SIGN))["unfit"]
    assert sentence.startswith("cannot write probe-")


def test_a_bucket_is_tried() -> None:
    with s3_server.serving() as url, s3_server.exported(url):
        bucket = Storage(f"s3://{s3_server.BUCKET}/one")
        with Lease(bucket) as lease:
            sign = lease.sign
            assert examine(Question(bucket, sign))["unfit"] == []
            assert "probe" not in " ".join(bucket.sizes())
        (unseen,) = examine(Question(Storage(f"s3://{s3_server.BUCKET}/two"), sign))["unfit"]
        assert "it does not see in s3://" in unseen


# --- what the driver makes of it ------------------------------------------------------------------------------------


@pytest.fixture
def answers(here: dict[str, object]) -> list[Answer]:
    return [Answer(host, facts=here) for host in ("one", "two", "three")]


def test_equal_machines_are_fit(answers: list[Answer], here: dict[str, object]) -> None:
    verdicts = judged(answers, here)
    assert [verdict.host for verdict in verdicts] == ["one", "two", "three"]
    assert not any(verdict.unfit or verdict.different for verdict in verdicts)
    assert refusal(verdicts, allow_drift=False) == ""


Change = Callable[[Answer], Answer]


def facts(**changed: object) -> Change:
    return lambda answer: replace(answer, facts=answer.facts | changed)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (facts(code="1.0+abc"), "it has distsim 1.0+abc, the driver has "),
        (facts(torch="2.1"), f"torch 2.1, others have {torch.__version__}"),
        (facts(instruction_set="AVX"), "instruction set AVX, others have "),
        (facts(gpu="H100"), "GPU H100, others have none"),
        (lambda answer: replace(answer, clock=-130.0), "its clock is 130 s behind the driver's"),
        (lambda answer: replace(answer, clock=61.0), "its clock is 61 s ahead of the driver's"),
    ],
)
def test_a_machine_that_would_give_other_results(
    answers: list[Answer], here: dict[str, object], change: Change, sentence: str
) -> None:
    answers[1] = change(answers[1])
    verdicts = judged(answers, here)
    assert [bool(verdict.different) for verdict in verdicts] == [False, True, False]
    assert verdicts[1].different[0].startswith(sentence)
    refused = refusal(verdicts, allow_drift=False)
    assert refused.startswith(f"machines of the Ray cluster differ (two: {sentence}")
    assert "--allow-drift" in refused
    assert refusal(verdicts, allow_drift=True) == ""
    assert said(verdicts[1]).startswith(f"two differs: {sentence}")


def test_the_drivers_processor_may_be_another(answers: list[Answer], here: dict[str, object]) -> None:
    assert not any(verdict.different for verdict in judged(answers, here | {"instruction_set": "AVX", "torch": "2.1"}))


def test_unfit_machines_get_no_work_and_one_fit_one_is_enough(answers: list[Answer], here: dict[str, object]) -> None:
    answers[0] = Answer("one", "ModuleNotFoundError: No module named 'distsim'")
    answers[1] = replace(answers[1], unfit=("no store", "no GPU"))
    verdicts = judged(answers, here)
    assert [verdict.unfit for verdict in verdicts] == [answers[0].error, "no store; no GPU", ""]
    assert said(verdicts[0]) == "one gets no work: ModuleNotFoundError: No module named 'distsim'"
    assert refusal(verdicts, allow_drift=False) == ""
    refused = refusal(verdicts[:2], allow_drift=True)
    assert refused.startswith("no machine of the Ray cluster can be used (one: ModuleNotFoundError: ")


def test_a_clock_is_compared_with_both_ends_of_the_question() -> None:
    raw = {"host": "one", "clock": 1000.0}
    assert answer_of(raw, sent=990.0, received=1010.0).clock == 0, "it may have answered at any time in between"
    assert answer_of(raw, sent=1100.0, received=1101.0).clock == -100
    assert answer_of(raw, sent=800.0, received=801.0).clock == 199
    assert answer_of(raw | {"error": "gone"}, 999.0, 1001.0) == Answer("one", "gone", 0.0, 2.0)
