"""What a command says when it ends."""

from distsim.cli.output import reported
from distsim.sweep.failures import SweepFailed


def test_pieces_that_failed_for_one_reason_share_a_line(capsys):
    def fails():
        raise SweepFailed(
            [
                "lenet, layer conv1: lenet: results would differ: torch: '2' here",
                "lenet, run 1, iteration 2, layer out: the disk\nis full",
                "lenet, layer conv2: lenet: results would differ: torch: '2' here",
                "lenet, layer fc1: lenet: results would differ: torch: '2' here",
                "no colon",
            ]
        )

    assert reported(fails) == 1
    assert capsys.readouterr().err.splitlines() == [
        "distsim: 5 failed, the rest is done:",
        "  lenet, layer conv1 and 2 more: results would differ: torch: '2' here",
        "  lenet, run 1, iteration 2, layer out: the disk is full",
        "  no colon",
    ]
