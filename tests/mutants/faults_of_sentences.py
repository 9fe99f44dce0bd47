"""Faults that outsiders found in sentences, figures and descriptions, made again."""

from mutants.mutant import Kind, Mutant

REPORT = "results/test_report_page.py::"
SENTENCES = "results/test_report_sentences.py::"
COMPARED = "cli/test_compare_models_command.py::"
EXPORT = "cli/test_export.py::"
SHORT = (REPORT + "test_short_work_and_a_single_epoch_are_said_in_words",)
REPLACED = (COMPARED + "test_it_says_what_was_compared_and_what_it_replaced",)
DARK = ("comparison/test_models_compared.py::test_similar_layers_are_dark_in_a_heat_map_of_distances_too",)

SHOWN = (
    Mutant(
        "no-pruned-networks-no-report",
        "A study without a pruned network has no report: its last iteration is asked for.",
        "results/report/sentences.py",
        """    if not all_levels:
        return ""
    end_of_study""",
        "    end_of_study",
        (SENTENCES + "test_of_a_study_without_pruned_networks_nothing_is_said_about_similarity",),
    ),
    Mutant(
        "short-work-is-no-work",
        "A report says of a study of seconds that it took 0.0 h.",
        "results/report/parts.py",
        "duration(3600 * hours)",
        'f"{hours:.1f} h"',
        SHORT,
    ),
    Mutant(
        "one-epochs",
        "A report says 1 epochs.",
        "results/report/words.py",
        "f\"{counted(recipe.epochs, 'epoch')} of ",
        'f"{recipe.epochs} epochs of ',
        SHORT,
    ),
    Mutant(
        "counted-without-a-plural",
        "Two epochs are said to be 2 epoch.",
        "words.py",
        "{'s' * (number != 1)}",
        "",
        ("test_words.py::test_counted",),
    ),
    Mutant(
        "inputs-are-not-told",
        "A comparison of models does not say on how many inputs it was made.",
        "cli/compare_models.py",
        "for said in (_inputs_in_words(data, flags), found.doubts,",
        "for said in (found.doubts,",
        REPLACED,
    ),
    Mutant(
        "replaced-in-silence",
        "An earlier comparison is replaced, and nothing says so.",
        "cli/compare_models.py",
        "replaced = any((folder / name).exists() for name in files)",
        "replaced = False",
        REPLACED,
    ),
    Mutant(
        "layer10-before-layer2",
        "Layers of a safetensors file are in the order of the alphabet.",
        "cli/named_models.py",
        "sorted(loaded, key=_by_number)",
        "sorted(loaded)",
        (COMPARED + "test_layers_of_a_safetensors_file_are_in_the_order_of_their_numbers",),
    ),
    Mutant(
        "equal-layers-are-pale",
        "In a heat map of distances dark means different, in all others it means similar.",
        "comparison/heatmaps.py",
        "SHADES.reversed() if distance else SHADES",
        "SHADES",
        DARK,
    ),
    Mutant(
        "exported-without-a-description",
        "A network that Python exported lies alone: nothing says what it is.",
        "api/exporting.py",
        "    if not _is_stream(file):\n",
        "    if False:\n",
        (EXPORT + "test_from_python_a_network_has_its_description_beside_it",),
    ),
    Mutant(
        "description-beside-a-device",
        "An export to /dev/null writes a file into /dev.",
        "api/exporting.py",
        "    if not _is_stream(file):\n",
        "    if True:\n",
        (EXPORT + "test_a_device_has_no_description_beside_it",),
    ),
    Mutant(
        "description-beside-stdout",
        "An export to /dev/stdout, which leads to a file, writes another file into /dev.",
        "api/exporting.py",
        "(not file.is_file() or str(file.absolute().parent) in OPEN_FILES)",
        "not file.is_file()",
        (EXPORT + "test_where_the_output_goes_to_a_file_there_is_no_description_beside_its_name",),
    ),
)

PUBLISHED = "cli/test_main.py::"
TABLES_ONLY = (
    Mutant(
        "published-is-no-sweep",
        "Of a published study commands say that there is no sweep, and not what it is.",
        "store/existing.py",
        "    if root.folder is not None and is_published(root.folder):\n",
        "    if False:\n",
        (PUBLISHED + "test_what_needs_networks_says_that_a_published_study_has_none",),
    ),
    Mutant(
        "published-is-not-verified",
        "verify takes a published study for a store, and does not look at its tables.",
        "cli/checking.py",
        "    if studies := published_studies(flags):",
        "    if studies := []:",
        (PUBLISHED + "test_the_tables_of_a_published_study_are_verified",),
    ),
    Mutant(
        "one-runs",
        "A sweep of one run ends with 1 runs.",
        "cli/run.py",
        "{counted(extent.runs, 'run')}",
        "{extent.runs} runs",
        ("cli/test_sweep_command.py::test_a_file_is_the_problem_and_flags_win",),
    ),
)

KINDS = (Kind("What is shown says what it is", (*SHOWN, *TABLES_ONLY)),)
