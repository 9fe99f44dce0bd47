"""Faults that outsiders found in records, in metrics of one's own and in what a report says, made again."""

from mutants.mutant import Kind, Mutant

RECORDS = "store/test_records.py::"
MEASURED = "comparison/test_measured.py::"
BOUNDS = (RECORDS + "test_values_lie_within_their_metrics_bounds",)
REPORTED = ("results/test_report_writing.py::test_what_is_damaged_and_needed_for_it_is_said_once_and_ends_in_status_1",)

POSSIBLE = (
    Mutant(
        "halves-of-characters-in-records",
        "A record of a stranger's that holds half a character ends the report in a traceback.",
        "specs/json_shape.py",
        "    if not _all_encodable(value):\n",
        "    if False:\n",
        ("specs/test_json_shape.py::test_text_that_cannot_be_encoded", RECORDS + "test_a_mark_whose_digest_is_right"),
    ),
    Mutant(
        "accuracies-of-seven",
        "An accuracy of 7 is drawn and judged like others.",
        "store/records.py",
        "    accuracy: Proportion  # on the test set\n",
        "    accuracy: Real  # on the test set\n",
        (RECORDS + "test_the_record_of_a_network",),
    ),
    Mutant(
        "losses-whose-square-is-infinite",
        "A loss of 1.7e308 is taken, and a figure's axis cannot be drawn.",
        "store/records.py",
        "    loss: Real\n    remaining",
        "    loss: float\n    remaining",
        (RECORDS + "test_the_record_of_a_network",),
    ),
    Mutant(
        "values-beyond-their-bounds",
        "A CKA of 5 is drawn and judged like others.",
        "store/records.py",
        "        within = low - ROUNDING <= value <= high + ROUNDING\n",
        "        within = True\n",
        BOUNDS,
    ),
    Mutant(
        "values-beside-values-of-any-size",
        "A chance level of 1.7e308 is taken, and a figure's axis cannot be drawn.",
        "comparison/pair.py",
        "    null: NotRequired[Real | None]\n",
        "    null: NotRequired[float | None]\n",
        BOUNDS,
    ),
    Mutant(
        "seconds-of-any-size",
        "A network that took 1.7e308 seconds is taken, and the sum of all is infinite.",
        "store/commits.py",
        "    seconds: Real\n",
        "    seconds: float\n",
        (RECORDS + "test_a_mark_whose_digest_is_right",),
    ),
    Mutant(
        "values-that-no-reader-takes-are-written",
        "A fault of a metric's gets into the store, which is damaged from then on.",
        "store/sweep_store.py",
        'readable(Mark(attempt="", objects={}, values=values, **fields), path))',
        'Mark(attempt="", objects={}, values=values, **fields).encode())',
        ("store/test_identity.py::test_values_that_no_reader_takes_are_not_written",),
    ),
)

OWN_METRICS = (
    Mutant(
        "own-values-of-any-size",
        "A metric of one's own may return infinity or 1e308.",
        "comparison/measured.py",
        "    return number if abs(number) <= LARGEST else None\n",
        "    return number\n",
        (MEASURED + "test_a_value_must_be_a_finite_number",),
    ),
    Mutant(
        "own-values-of-text",
        'The text "0.5" of a metric of one\'s own is a value.',
        "comparison/measured.py",
        "    if isinstance(value, str | bytes | bytearray):\n",
        "    if False:\n",
        (MEASURED + "test_a_value_must_be_a_finite_number",),
    ),
    Mutant(
        "own-errors-without-a-name",
        "A metric of one's own fails with KeyError: 'x', and neither the metric nor the layer is named.",
        "comparison/measured.py",
        "or metric.deferred or BUILT_IN.get(metric.name) == metric:",
        "or True:",
        (MEASURED + "test_what_a_metric_raises_has_its_name",),
    ),
    Mutant(
        "own-cautions-of-any-type",
        "A caution that is no text gets into the store, and damages it.",
        "comparison/measured.py",
        "    if not (isinstance(warning, str) and encodable(warning)):\n",
        "    if False:\n",
        (MEASURED + "test_what_is_said_beside_a_value_is_checked",),
    ),
    Mutant(
        "own-reasons-of-nothing",
        "A value that is missing without a reason gets into the store, and damages it.",
        "comparison/measured.py",
        "    if not reason or not encodable(reason):\n",
        "    if False:\n",
        (MEASURED + "test_a_reason_must_be_a_text",),
    ),
    Mutant(
        "own-counts-of-any-type",
        "A metric of one's own may keep half a direction.",
        "comparison/measured.py",
        "        x, y = map(operator.index, counts)\n",
        "        x, y = map(int, counts)\n",
        (MEASURED + "test_what_is_said_beside_a_value_is_checked",),
    ),
    Mutant(
        "own-functions-that-are-none",
        "A metric whose measure is no function is registered, and fails when a sweep has trained its networks.",
        "metrics/registry.py",
        '            if not (callable(function) or (function is None and field != "measure")):\n',
        "            if False:\n",
        ("comparison/test_sides.py::test_the_fields_of_a_metric_have_their_types",),
    ),
    Mutant(
        "own-bounds-the-wrong-way-round",
        "A metric whose bounds are exchanged is registered, and its figures are upside down.",
        "metrics/registry.py",
        "        and bool(bounds[0] < bounds[1])\n",
        "",
        ("comparison/test_sides.py::test_the_fields_of_a_metric_have_their_types",),
    ),
)

REPORTS = (
    Mutant(
        "reports-that-fail-end-well",
        "A script takes a report for written that something damaged kept from it.",
        "cli/reporting.py",
        "    return 1 if failed else 0\n",
        "    return 0\n",
        REPORTED,
    ),
    Mutant(
        "reports-that-fail-say-so-among-results",
        "What kept a report from being written stands on stdout among what came out.",
        "cli/reporting.py",
        '        say(f"no report was written: {one_line(why)}")\n',
        '        print_line(f"no report was written: {one_line(why)}")\n',
        REPORTED,
    ),
    Mutant(
        "reports-that-fail-say-so-twice",
        "What kept a report from being written is said twice.",
        "cli/reporting.py",
        "    for why in dict.fromkeys(failed):\n",
        "    for why in failed:\n",
        REPORTED,
    ),
)

KINDS = (
    Kind("Records hold numbers and text that can be", POSSIBLE),
    Kind("What a metric of one's own returns is checked", OWN_METRICS),
    Kind("A report that is not written is a failure", REPORTS),
)
