"""What the processor lacks, and whether other processes hold it, as far as the system says."""

import math
import os
from pathlib import Path

import pytest

from distsim import processor
from distsim.processor import Load, TooSlow, busy_sentence, lacks_bfloat16, require_speed, slow_precision


@pytest.mark.parametrize(
    ("machine", "line", "lacking"),
    [
        ("x86_64", "flags\t\t: fpu avx2", "avx512_bf16 or amx_bf16"),
        ("x86_64", "flags\t\t: fpu avx2 avx512f avx512bw", "avx512_bf16 or amx_bf16"),
        ("x86_64", "flags\t\t: fpu avx512f avx512bw avx512_bf16", ""),
        ("x86_64", "flags\t\t: fpu amx_bf16", ""),
        ("aarch64", "Features\t: fp asimd", "bf16"),
        ("aarch64", "Features\t: fp asimd bf16", ""),
        ("riscv64", "isa\t: rv64", ""),
        ("x86_64", "model name\t: it does not say", ""),
    ],
)
def test_a_processor_without_bfloat16_is_told(tmp_path: Path, machine: str, line: str, lacking: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n")
    said = lacks_bfloat16(tmp_path / "cpuinfo", machine)
    assert (f"lacks instructions for bfloat16 ({lacking})" in said) == bool(lacking)
    assert bool(said) == bool(lacking)
    assert lacks_bfloat16(tmp_path / "nothing", machine) == ""


def test_it_says_how_much_slower_such_a_processor_was_seen_to_be(tmp_path: Path) -> None:
    (tmp_path / "avx2").write_text("flags\t\t: fpu avx2\n")
    (tmp_path / "avx512").write_text("flags\t\t: fpu avx2 avx512f avx512bw\n")
    said = lacks_bfloat16(tmp_path / "avx2", "x86_64")
    assert "took 12 times (vgg_svhn) and 16 times (cifar2) as long as in float32 on AVX2" in said
    assert "took about twice as long as in float32" in lacks_bfloat16(tmp_path / "avx512", "x86_64")


def test_only_bfloat16_on_such_a_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "lacks_bfloat16", lambda: "this processor lacks it")
    assert [slow_precision(*what) for what in (("float32", "cpu"), ("bfloat16", "cuda"))] == ["", ""]
    require_speed("cifar2", "float32", "cpu")
    require_speed("cifar2", "bfloat16", "cuda")
    with pytest.raises(
        TooSlow, match=r"^cifar2: this processor lacks it\. .*--allow-slow \(allow_slow=True in Python\)"
    ):
        require_speed("cifar2", "bfloat16", "cpu")
    monkeypatch.setattr(processor, "lacks_bfloat16", lambda: "")
    require_speed("cifar2", "bfloat16", "cpu")


class System:
    """A system on which only what a test says happens."""

    def __init__(self, load: float, used: float = 0.0) -> None:
        self.load, self.used, self.now = load, used, 1000.0

    def watch(self) -> Load:
        return Load(lambda: (self.load, 0.0, 0.0), lambda: self.now, lambda: self.used)


def test_what_this_process_adds_to_the_load_is_not_the_others() -> None:
    system = System(load=2.0, used=3.0)  # three seconds of importing
    watched = system.watch()
    assert watched.others(2, 2) == pytest.approx(2.0 - (1 - math.exp(-3 / 60)))
    system.now, system.used = system.now + 600, system.used + 1200  # two threads for ten minutes
    assert watched.others(2, 2) == pytest.approx(0.0, abs=1e-3)
    system.now = system.now + 60  # a minute without work: of its own load a share of 1 / e is left
    assert watched.others(2, 2) == pytest.approx(2.0 - 2 / math.e, abs=1e-3)
    assert watched.others(2, 2) == pytest.approx(2.0 - 2 / math.e, abs=1e-3), "asked again at the same time"


def test_others_may_use_the_cores_that_this_process_may_not() -> None:
    watched = System(load=30.0).watch()
    assert watched.others(ours=2, all_cores=64) == 0.0
    assert watched.others(ours=2, all_cores=30) == 2.0
    assert watched.others(ours=8, all_cores=4) == 30.0, "a container may say one thing here and another there"


def test_a_system_that_does_not_tell_its_load_is_none_that_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> tuple[float, float, float]:
        raise OSError("Load averages are unobtainable")

    monkeypatch.setattr(os, "getloadavg", refuse)
    assert Load().others() is None
    monkeypatch.delattr(os, "getloadavg")
    assert Load().others() is None
    assert busy_sentence(None) == busy_sentence(0.5) == ""


def test_a_busy_machine_is_said_with_what_to_do() -> None:
    assert "a load of 1.6 on " in busy_sentence(1.6)
    idle = processor.cores() - 1
    assert (busy_sentence(idle + 0.5, needed=1), bool(busy_sentence(idle + 0.6, needed=1))) == ("", True), (
        "one core may be left"
    )
    assert busy_sentence(1.6).endswith("Keep --threads 1, or wait")
    assert busy_sentence(1.6, threads=2).endswith("Wait, or use --threads 1, which is another sweep")
    for threads in (1, 2):
        assert "what is measured now is too slow. More than one thread a trial would be slow" in busy_sentence(
            1.6, threads
        )
