"""Mistakes in runs that are trained in one step."""

from mutants.mutant import Mutant

TAILS = "training/test_tails.py::"
FUSED = "training/test_fused.py::"
GROUP = "training/test_group.py::"
SWEEP = "sweep/test_fused_sweep.py::"

MUTANTS = (
    Mutant(
        "fused-without-lars",
        "LARS passes over convolutions of fused runs, whose weights have an axis more.",
        "training/optimizers.py",
        "self._of_convolutions = 4 + stacked",
        "self._of_convolutions = 4",
        (FUSED + "test_lars_scales_each_filter_of_each_run",),
    ),
    Mutant(
        "fused-runs-share-dropout",
        "All fused runs draw their dropout from the first one's stream.",
        "training/fused.py",
        "numbers.uniform_(generator=stream.generator)",
        "numbers.uniform_(generator=self.streams[0].generator)",
        (GROUP + "test_a_run_is_the_same_alone_and_among_others",),
    ),
    Mutant(
        "fused-labels-of-another-run",
        "Fused runs learn each other's labels.",
        "training/fused.py",
        "labels.t().reshape(-1)",
        "labels.reshape(-1)",
        (GROUP + "test_a_group_is_what_each_run_is_alone_but_for_rounding",),
    ),
    Mutant(
        "fused-loss-of-all",
        "The loss of a fused run is the mean over all runs: one that is not a number spoils them all.",
        "training/fused.py",
        "return each.view(n, runs).mean(dim=0)",
        "return each.mean().expand(runs)",
        (FUSED + "test_a_run_has_the_same_bits_whatever_is_in_the_other_slots",),
    ),
    Mutant(
        "fused-masks-forgotten",
        "The dead of fused runs come back to life.",
        "training/fused_stepper.py",
        "self._masks[name][slot].copy_(masks[name])",
        "self._masks[name][slot].fill_(1)",
        (GROUP + "test_a_group_is_what_each_run_is_alone_but_for_rounding",),
    ),
    Mutant(
        "fused-place-by-order",
        "A run's place in its group depends on which runs are left to train.",
        "training/group.py",
        "_Member(streams, run % self.size,",
        "_Member(streams, len(members),",
        (GROUP + "test_a_run_keeps_its_slot",),
    ),
    Mutant(
        "fused-each-from-its-own-epoch",
        "Runs of an interrupted group go on from different epochs.",
        "store/checkpoints.py",
        "by_epochs[max(shared)]",
        "by_epochs[max(by_epochs)]",
        (SWEEP + "test_a_group_goes_on_from_the_last_epoch_that_all_share",),
    ),
    Mutant(
        "fused-groups-by-place",
        "A trial gets runs of one place, which cannot be trained together.",
        "sweep/plan.py",
        "lambda chain: (chain.run // size,",
        "lambda chain: (chain.run % size,",
        (SWEEP + "test_groups_are_of_neighbouring_runs_whichever_are_left",),
    ),
    Mutant(
        "fused-in-every-identity",
        "Stores of earlier versions are those of another sweep.",
        "specs/sweep.py",
        "= added(1, absent=1)  # runs that are trained in one step",
        "= 1  # runs that are trained in one step",
        (SWEEP + "test_an_unfused_identity_is_that_of_earlier_versions",),
    ),
    Mutant(
        "fused-failure-of-one-ends-all",
        "A run that diverges ends its whole group.",
        "training/group.py",
        "            return Ended(run, error=error)\n        functions",
        "            raise\n        functions",
        (GROUP + "test_a_run_that_diverges_ends_alone",),
    ),
    Mutant(
        "tails-forget-the-mean-gradient",
        "Batch norm's kernel back leaves out what all pixels of a channel share.",
        "training/kernels.py",
        "own = factor * (own - common - (value - centre) * spread * slope)\n                bias",
        "own = factor * (own - (value - centre) * spread * slope)\n                bias",
        (TAILS + "test_a_tail_is_what_torchs_modules_do",),
    ),
    Mutant(
        "tails-count-what-is-not-there",
        "The gradient of a bias counts rows beyond the last one.",
        "training/kernels.py",
        "bias += tl.sum(tl.where(valid, own, 0.0), 0)\n            tl.store(back_x + where",
        "bias += tl.sum(own, 0)\n            tl.store(back_x + where",
        (TAILS + "test_a_tail_is_what_torchs_modules_do",),
    ),
    Mutant(
        "tails-hide-a-nan",
        "Pooling's kernel leaves out a pixel that is not a number.",
        "training/kernels.py",
        "(value > best) | (value != value)",
        "(value > best)",
        (TAILS + "test_one_channels_nan_stays_its_own_and_is_not_hidden",),
    ),
)
