"""bench/hours.py: what a cluster costs, from the measured rates, as docs/cluster.md has it."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from distsim.problems import PROBLEMS

ROOT = Path(__file__).parents[1]


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "bench")
    spec = importlib.util.spec_from_file_location("bench_hours", ROOT / "bench" / "hours.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_has_what_the_command_makes(hours: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "cluster.md"
    text = (ROOT / "docs" / "cluster.md").read_text()
    page.write_text(re.sub(r"(cluster hours: begin -->\n).*?(<!--)", r"\1\2", text, flags=re.S))
    assert hours.main(["--write", str(page)]) == 0
    assert page.read_text() == text


def test_a_sweep_by_hand(hours: ModuleType) -> None:
    """vgg16_cifar10: the complete network, 20 runs and 2 + 2 controls of 20 iterations, each of all its epochs."""
    networks, images = hours.work(PROBLEMS["vgg16_cifar10"])
    assert networks == 1 + 24 * 20
    assert images == 481 * 160 * (50_000 // 128 * 128)


def test_gpus_divide_the_hours_and_not_the_dollars(hours: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def row(*flags: str) -> list[str]:
        assert hours.main([*flags]) == 0
        (line,) = re.findall(r"^\| vgg16_cifar10 .*", capsys.readouterr().out, re.M)
        return [cell.strip() for cell in line.strip("|").split("|")]

    one, four = row("--dollars", "2.5"), row("--dollars", "2.5", "--gpus", "4")
    assert float(one[4]) == pytest.approx(4 * float(four[4]), abs=0.25)
    assert one[5:] == four[5:]
    assert float(one[5]) == pytest.approx(2.5 * float(one[3]), abs=0.2)


@pytest.mark.parametrize(
    ("flags", "said"), [(["--card", "abacus"], "no training table of abacus"), (["--gpus", "0"], "--gpus must be")]
)
def test_what_cannot_be_is_said(
    hours: ModuleType, capsys: pytest.CaptureFixture[str], flags: list[str], said: str
) -> None:
    with pytest.raises(SystemExit):
        hours.main(flags)
    assert said in capsys.readouterr().err
