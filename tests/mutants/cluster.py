"""Mistakes about the machines of a cluster, dead workers, and instructions through the store."""

from mutants.mutant import Mutant

PREFLIGHT = "sweep/test_preflight.py::"
HOSTS = "sweep/test_ray_hosts.py::"
CONTROL = "store/test_control.py::"
OTHERS = ("sweep/test_ray_engine.py::test_others_compare_while_one_that_began_in_training_goes_on",)

MUTANTS = (
    Mutant(
        "machines-with-other-code",
        "A machine with other code is taken for one like the driver.",
        "sweep/preflight.py",
        'facts["code"] != here["code"]',
        'facts["code"] == ""',
        (PREFLIGHT + "test_a_machine_that_would_give_other_results",),
    ),
    Mutant(
        "clocks-ten-minutes-off",
        "A machine's clock may be ten minutes off.",
        "sweep/preflight.py",
        "CLOCK = 60.0",
        "CLOCK = 600.0",
        (PREFLIGHT + "test_a_machine_that_would_give_other_results",),
    ),
    Mutant(
        "folders-not-shared",
        "A folder of the machine's own is taken for the store.",
        "sweep/preflight.py",
        "storage.get(path) != content",
        "storage.get(path) is None",
        (PREFLIGHT + "test_what_it_lacks_is_a_sentence",),
    ),
    Mutant(
        "deaths-on-sick-machines-count",
        "A worker's death counts although its machine turned out to be unfit.",
        "sweep/on_ray/deaths.py",
        "not self._hosts.avoid <= avoided",
        "bool(self._hosts.avoid - self._hosts.avoid)",
        (HOSTS + "test_a_machine_that_loses_its_code_gets_no_more_work",),
    ),
    Mutant(
        "deaths-never-forgiven",
        "Deaths add up although there was progress in between.",
        "sweep/on_ray/deaths.py",
        "self._counted[key] = -1",
        "self._counted[key] += 0",
        (HOSTS + "test_deaths_are_counted_until_there_is_progress",),
    ),
    Mutant(
        "instructions-overwritten",
        "Of two instructions that are given at once the later one replaces the other.",
        "store/control.py",
        "while not root.create(_path(number), content):",
        "while root.put(_path(number), content) is not None:",
        (CONTROL + "test_two_who_write_at_once_overwrite_nothing",),
    ),
    Mutant(
        "comparisons-wait-for-early-ones",
        "When the last training ends, no comparison begins until those that have begun are done.",
        "sweep/on_ray/engine.py",
        "        begun = pool.jobs_at_work\n",
        "        while pool.at_work:\n            pool.step(LOOKS)\n        begun = pool.jobs_at_work\n",
        OTHERS,
    ),
    Mutant(
        "early-comparisons-twice",
        "What is being compared when the last training ends is given out once more.",
        "sweep/on_ray/engine.py",
        "jobs = without(jobs, begun)",
        "jobs = list(jobs)",
        OTHERS,
    ),
    Mutant(
        "tables-by-a-stale-listing",
        "Tables say that they are of a listing in which the last comparisons are not.",
        "sweep/run.py",
        "            del listed[order.name]  # it does not say what was compared now\n",
        "",
        ("sweep/test_controls.py::test_a_sweeps_tables_have_its_complete_networks_compared",),
    ),
    Mutant(
        "tables-list-again",
        "A finished sweep's command lists the store twice.",
        "results/reduce.py",
        "listed = store.storage.listed() if listed is None else listed",
        "listed = store.storage.listed()",
        ("sweep/test_finished.py::test_the_command_lists_the_sweep_once",),
    ),
    Mutant(
        "averages-of-dead-trials-kept",
        "Tune keeps the averages of trials that have died, as long as the sweep lasts.",
        "sweep/on_ray/trials.py",
        "short_of_memory(cause))\n        _forget_averages(trial)",
        "short_of_memory(cause))",
        ("sweep/test_ray_engine.py::test_tune_keeps_no_averages_of_trials_that_have_ended",),
    ),
    Mutant(
        "new-workers-ended",
        "A worker that has become free gets the trial for which another one is being started.",
        "sweep/on_ray/trials.py",
        "return next(iter(without or waiting), None)",
        "return next(iter(waiting), None)",
        ("sweep/test_ray_engine.py::test_a_worker_that_has_started_gets_a_chain",),
    ),
)
