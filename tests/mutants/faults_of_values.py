"""Faults that outsiders found in values, tables, figures and claims, made again."""

from mutants.mutant import Kind, Mutant

TABLES = "results/test_tables.py::"
COMPARED = "comparison/test_models_compared.py::"
SATURATION = "metrics/test_saturation.py::"
LAYER = "comparison/test_layer.py::"
TEXT = "results/test_text.py::"
FIGURES = "results/test_figures.py::"
MISTAKES = "cli/test_mistakes.py::"
PAIRS = "sweep/test_pairs.py::"
CLAIMS = "results/test_claims.py::"
CONTROLS = "results/test_claims_controls.py::"
PLANTED = "results/test_claims_planted.py::"
SIMILARITIES = (PLANTED + "test_one_similarity_on_either_side_of_a_threshold",)

DOUBTFUL_VALUES = (
    Mutant(
        "forced-correlations-without-a-word",
        "Correlations that are 1 by force raise mean CCA, and nothing says so.",
        "metrics/channels.py",
        "    if forced > 0:\n",
        "    if False:\n",
        (SATURATION + "test_correlations_that_are_1_by_force_are_counted",),
    ),
    Mutant(
        "cca-warned-of-by-rows-and-columns",
        "CCA is warned of only where rows are fewer than columns, and three rows for each direction pass for enough.",
        "metrics/channels.py",
        "if n < FEW * max(rank_x, rank_y):",
        "if n < max(rank_x, rank_y):",
        (SATURATION + "test_few_rows_for_each_direction",),
    ),
    Mutant(
        "svcca-warned-of-by-all-directions",
        "SVCCA is warned of for directions that it leaves out.",
        "metrics/registry.py",
        '        "mean SVCCA",\n        caution=saturation_of_leading,\n',
        '        "mean SVCCA",\n        caution=saturation,\n',
        (SATURATION + "test_svcca_counts_the_directions_that_it_keeps",),
    ),
    Mutant(
        "cka-warned-of-by-rows-and-columns",
        "CKA of .998 where chance is .084 is warned of, since it has fewer rows than columns.",
        "metrics/registry.py",
        "caution=by_chance, bounds=_UNIT, deferred=True, null=of_cka",
        "caution=few_rows, bounds=_UNIT, deferred=True, null=of_cka",
        (
            SATURATION + "test_the_chance_level_of_cka_is_the_mean_over_permutations",
            LAYER + "test_few_rows_are_warned_of",
        ),
    ),
    Mutant(
        "mean-cca-never-warned-of",
        "Mean CCA of any saturation is a value like others.",
        "metrics/registry.py",
        '"mean CCA", caution=saturation, bounds',
        '"mean CCA", bounds',
        (COMPARED + "test_one_warning_says_which_values_say_little",),
    ),
    Mutant(
        "compare-does-not-warn",
        "distsim.compare of forty inputs returns correlations of 1 without a warning.",
        "comparison/models.py",
        "    if found.doubts:\n",
        "    if False:\n",
        (COMPARED + "test_one_warning_says_which_values_say_little",),
    ),
    Mutant(
        "heat-maps-without-stars",
        "Values to be read with care look like others in a heat map.",
        "comparison/similarities.py",
        'warned = np.array([bool(row.get("warning"))',
        "warned = np.array([False",
        (COMPARED + "test_values_with_a_warning_have_a_star_in_the_heat_map",),
    ),
    Mutant(
        "care-not-in-tables",
        "The summary does not say how many of its values are to be read with care.",
        "results/tables.py",
        'np.count_nonzero(group["warning"][there] != "")',
        "0",
        (TABLES + "test_the_summary_counts_the_values_that_carry_a_warning",),
    ),
    Mutant(
        "care-not-in-the-terminal",
        "The terminal shows values to be read with care like others.",
        "results/text.py",
        'summary.assign(care=summary["warned"] > 0,',
        "summary.assign(care=False,",
        (TEXT + "test_values_to_be_read_with_care_are_marked_and_their_layers_named",),
    ),
    Mutant(
        "care-not-in-figures",
        "Figures show values to be read with care like others.",
        "results/marks.py",
        'care=rows["warned"] > 0 if "warned" in rows else False',
        "care=False",
        (FIGURES + "test_points_to_be_read_with_care_are_hollow_and_those_of_fewer_runs_crossed",),
    ),
    Mutant(
        "marks-without-a-note",
        "Figures have hollow points, and nothing says what they are.",
        "results/marks.py",
        'return "; ".join(text for text, name in ((HOLLOW, "care"), (CROSSED, "few")) if rows[name].any())',
        'return ""',
        (FIGURES + "test_points_to_be_read_with_care_are_hollow_and_those_of_fewer_runs_crossed",),
    ),
    Mutant(
        "maps-without-marks",
        "Maps of iterations show values to be read with care like others.",
        "results/marks.py",
        'doubtful = rows[rows["warning"] != ""]',
        "doubtful = rows[:0]",
        (FIGURES + "test_cells_of_maps_are_marked",),
    ),
    Mutant(
        "care-not-in-the-text-of-pairs",
        "distsim pairs does not say how many of its values are to be read with care.",
        "results/pairs.py",
        'int((rows["warning"] != "").sum())',
        "0",
        (TEXT + "test_pairs_say_how_many_values_carry_a_warning",),
    ),
    Mutant(
        "fewer-runs-not-in-figures",
        "A spike that rests on one of five runs looks like the others' points.",
        "results/marks.py",
        "few=few(rows))",
        "few=False)",
        (FIGURES + "test_accuracies_of_fewer_runs_are_crossed",),
    ),
    Mutant(
        "fewer-runs-not-in-the-terminal",
        "A median that rests on one of five runs looks like the others.",
        "results/text.py",
        'care=summary["warned"] > 0, few=few(summary))',
        'care=summary["warned"] > 0, few=False)',
        (TEXT + "test_what_rests_on_fewer_runs_is_marked_and_named",),
    ),
    Mutant(
        "bands-of-accuracies-above-1",
        "The band of two standard deviations goes beyond an accuracy of 1.",
        "results/accuracy_figures.py",
        '(rows["mean"] + 2 * rows["sd"]).clip(0, 1)',
        'rows["mean"] + 2 * rows["sd"]',
        (FIGURES + "test_bands_end_where_values_end",),
    ),
    Mutant(
        "bands-of-similarities-above-1",
        "The band of the output layer goes beyond a similarity of 1.",
        "results/output_figures.py",
        '(mean + rows["sd"]).clip(least, most)',
        'mean + rows["sd"]',
        (FIGURES + "test_bands_end_where_values_end",),
    ),
    Mutant(
        "intervals-of-few-complete-networks",
        "An interval over three complete networks is called one of 95 %, and covers the median with less.",
        "results/tables.py",
        "if len(by_complete if several else values) < ENOUGH:",
        "if len(values) < ENOUGH:",
        ("results/test_published.py::test_intervals_over_several_complete_networks",),
    ),
    Mutant(
        "ranges-called-intervals",
        "The range of a few runs is called an interval of 95 %.",
        "results/ladder.py",
        'if table["runs"].min() >= ENOUGH else "range"',
        'if table["runs"].min() >= 2 else "range"',
        ("results/test_ladder.py::test_ranks_texts_and_figures",),
    ),
    Mutant(
        "directions-of-svcca-not-recorded",
        "Nobody can tell how many directions SVCCA compared.",
        "comparison/pair.py",
        "if metric.kept is not None:",
        "if False:",
        (LAYER + "test_directions_and_effective_ranks_are_recorded",),
    ),
    Mutant(
        "effective-ranks-not-recorded",
        "Nobody can tell on how many directions the variance of a layer lies.",
        "comparison/pair.py",
        '                "effective_rank_x": x.effective_rank,\n',
        "",
        (LAYER + "test_directions_and_effective_ranks_are_recorded",),
    ),
)

OWN_METRICS = (
    Mutant(
        "unknown-metrics-damage-the-request",
        "A store whose own metric is not registered here is called damaged by every command.",
        "store/sweep_store.py",
        "            return Request.from_dict(tree)\n",
        "            from distsim.metrics.registry import known\n\n"
        '            known(tree["metrics"])\n            return Request.from_dict(tree)\n',
        (MISTAKES + "test_what_does_not_compute_the_metric_works_without_it",),
    ),
    Mutant(
        "tables-of-pairs-of-every-plan",
        "The table of one plan holds the pairs of all plans.",
        "results/pairs.py",
        "if (x, y) in pairs and (self.layers",
        "if (self.layers",
        (PAIRS + "test_each_plan_has_tables_of_what_was_asked_for",),
    ),
    Mutant(
        "tables-of-pairs-of-every-metric",
        "The table of pairs holds metrics that were not asked for.",
        "results/pairs.py",
        "for metric, result in results.items() if metric in metrics}",
        "for metric, result in results.items()}",
        (PAIRS + "test_each_plan_has_tables_of_what_was_asked_for",),
    ),
    Mutant(
        "tables-of-pairs-of-one-plan-only",
        "The table of a plan takes away those of the others.",
        "results/pairs.py",
        "if name != plan and made.items() <= tiles.items()}",
        "if False}",
        (PAIRS + "test_each_plan_has_tables_of_what_was_asked_for",),
    ),
    Mutant(
        "predecessors-named-wrongly",
        "A network whose predecessor is missing is said to be missing itself, under another iteration.",
        "sweep/plan.py",
        'is {made} from {_article(network.before)}, which is not in "',
        'is not in "',
        (MISTAKES + "test_a_network_whose_predecessor_is_missing_is_named_with_it",),
    ),
    Mutant(
        "predecessors-not-looked-for",
        "Training one network again begins although the network before it is missing.",
        "cli/commands.py",
        "    require_before(store, network)\n",
        "",
        (MISTAKES + "test_a_network_whose_predecessor_is_missing_is_named_with_it",),
    ),
    Mutant(
        "failed-commands-leave-folders",
        "A command that is refused leaves empty folders where its store would have been.",
        "store/existing.py",
        "                        made.rmdir()\n",
        "                        pass\n",
        (MISTAKES + "test_a_failed_script_leaves_nothing_behind",),
    ),
    Mutant(
        "values-checked-after-the-data",
        "--runs -1 is refused when the data have been found, downloaded and read.",
        "sweep/order.py",
        "    sweep = checked(problem, data=data, **asked)\n"
        "    if dataset is None:\n"
        "        dataset = load(problem, data, download=download, reading=sweep.reading)\n",
        "    if dataset is None:\n"
        '        reading = {"reading": asked["reading"]} if "reading" in asked else {}\n'
        "        dataset = load(problem, data, download=download, **reading)\n"
        "    sweep = checked(problem, data=data, **asked)\n"
        "    if dataset is None:\n"
        "        pass\n",
        (MISTAKES + "test_an_order_is_checked_before_its_data_are_looked_for",),
    ),
)

JUDGEMENTS = (
    Mutant(
        "claims-fall-by-rank-or-slope-alone",
        "A V-shaped profile, a U with a spike, and a fall of .001 all fall: by their ranks, or by a slope.",
        "results/claims/parts.py",
        "        rho <= T.spearman\n        and (slope if len(slopes) == 1 else high) < 0\n        and fall >= effect\n"
        "        and regained <= T.climbs_back * float(levels.iloc[0] - levels.min())\n",
        "        rho <= T.spearman or high < 0\n",
        (CLAIMS + "test_a_valley_over_layers_does_not_fall_towards_the_output",),
    ),
    Mutant(
        "claims-fall-without-a-slope",
        "A study of which one run rises falls.",
        "results/claims/parts.py",
        "        and (slope if len(slopes) == 1 else high) < 0\n",
        "",
        (PLANTED + "test_with_few_runs_every_run_must_fall",),
    ),
    Mutant(
        "claims-slope-of-few-runs-by-bootstrap",
        "Of five runs the bootstrap leaves out the one that rises.",
        "results/claims/parts.py",
        "if 1 < len(slopes) < ENOUGH:",
        "if 1 < len(slopes) < 2:",
        (PLANTED + "test_with_few_runs_every_run_must_fall",),
    ),
    Mutant(
        "claims-layers-fall-by-any-end",
        "Any layer counts as falling, although most of them rise.",
        "results/claims/parts.py",
        "spearman(levels.columns, row) <= T.spearman and row[0] - row[-1] >= T.effect for row",
        "True for row",
        (CLAIMS + "test_most_layers_fall",),
    ),
    Mutant(
        "claims-c8-with-one-bottom",
        "C8 holds where the profile has one bottom.",
        "results/claims/papers.py",
        "between >= T.c8_between",
        "between >= -1",
        SIMILARITIES,
    ),
    Mutant(
        "claims-c10-by-the-largest",
        "C10 declines wherever its last accuracy is not the largest, which luck of one complete network decides.",
        "results/claims/parts.py",
        "decline >= T.c10_decline and rho <= T.spearman",
        "levels.iloc[-1] < levels.max()",
        (PLANTED + "test_accuracies_on_either_side_of_a_threshold",),
    ),
    Mutant(
        "claims-accuracies-fall-by-any-amount",
        "A fall of a tenth of a percent of accuracy is a fall.",
        "results/claims/study.py",
        "effect_accuracy: float = 0.005",
        "effect_accuracy: float = 0.0",
        (PLANTED + "test_accuracies_on_either_side_of_a_threshold",),
    ),
    Mutant(
        "claims-c6-without-scatter",
        "C6 holds where the output is not scattered.",
        "results/claims/parts.py",
        "Part(says, scatter >= least,",
        "Part(says, True,",
        SIMILARITIES,
    ),
    Mutant(
        "claims-bounds-with-a-tolerance",
        "NBS of .898 is above .9: bounds that the papers state as such are widened.",
        "results/claims/parts.py",
        "smallest >= bound,",
        "smallest >= bound - T.about,",
        SIMILARITIES,
    ),
    Mutant(
        "claims-levels-without-a-tolerance",
        "NBS of .898 is not about .9: levels that were read off a figure get no tolerance.",
        "results/claims/parts.py",
        "low >= bounds[0] - T.about",
        "low >= bounds[0]",
        SIMILARITIES,
    ),
    Mutant(
        "claims-c17-never-judged",
        "C17 never has enough data.",
        "results/claims/papers.py",
        "return same_shape(evidence.study(P1_CIFAR10, metric), evidence.study(VGG16, metric))",
        'raise Absent("one problem pruned both ways")',
        (PLANTED + "test_c17_compares_the_shapes_under_both_rewindings",),
    ),
    Mutant(
        "claims-levels-under-one-definition",
        "Levels are judged by the paper's formula only, and not by the definition that P2 probably used.",
        "results/claims/papers.py",
        "(*metrics, *(name for name in variants if name in there))",
        "metrics",
        (PLANTED + "test_levels_are_judged_under_the_other_definition_too",),
    ),
    Mutant(
        "claims-c18-without-its-control",
        "C18 holds although retraining without pruning does the same.",
        "results/claims/papers.py",
        "        of_one += differs_from_control(study, control)\n",
        "",
        (CONTROLS + "test_c18_rules_out_what_retraining_does",),
    ),
    Mutant(
        "claims-c18-falls-as-the-control",
        "C18 holds although the control falls as far.",
        "results/claims/parts.py",
        "further >= T.effect and below >= T.effect",
        "below >= T.effect",
        (CONTROLS + "test_c18_rules_out_what_retraining_does",),
    ),
    Mutant(
        "claims-of-problems-that-scripts-changed",
        "A script's 4 epochs at a rate of 1.0 pass as the paper's problem.",
        "results/reduce.py",
        "reduced = bool(departures(identity.problem))",
        "reduced = False",
        ("results/test_reduce.py::test_a_problem_that_a_script_changed_is_reduced_whatever_it_says",),
    ),
    Mutant(
        "departures-but-not-of-recipes",
        "Another learning rate, or a pruning of a hundredth, makes no other problem.",
        "problems.py",
        "if getattr(same, name) != getattr(ours, name)]",
        'if name not in ("recipe", "pruning") and getattr(same, name) != getattr(ours, name)]',
        ("test_problems.py::test_a_script_that_changes_a_problem_is_found_out",),
    ),
    Mutant(
        "classes-of-ones-own-are-the-papers",
        "Images of ants and bees pass as CIFAR-10.",
        "sweep/order.py",
        'foreign = problem.source == "cifar10" and not set(dataset.classes) <= set(CIFAR_CLASSES)',
        "foreign = False",
        ("test_problems.py::test_other_classes_under_a_papers_name_are_a_reduced_problem",),
    ),
    Mutant(
        "images-are-the-published-ones",
        "Noise in folders named automobile and truck passes as the published images.",
        "results/claims/images.py",
        'return REENCODED if data.startswith(("folder:", "files:")) else ""',
        'return ""',
        ("results/test_claim_images.py::test_images_that_are_not_the_published_ones_are_named",),
    ),
    Mutant(
        "images-not-said-beside-verdicts",
        "A verdict does not say that it rests on re-encoded images.",
        "results/claims/judging.py",
        'if (remark := data.get(used, "")))',
        "if (remark := None))",
        (PLANTED + "test_what_is_known_of_the_images_stands_beside_each_verdict",),
    ),
)

UNSEEN = (
    Mutant(
        "vgg-hidden-norm-of-keras",
        "Batch norm of VGG's hidden layer forgets as slowly as Keras's: momentum 0.01.",
        "models/vgg.py",
        "nn.BatchNorm1d(outputs)",
        "nn.BatchNorm1d(outputs, momentum=0.01)",
        ("models/test_models.py::test_batch_norm_is_pytorchs_default",),
    ),
    Mutant(
        "accuracy-over-the-pool",
        "Accuracy is drawn over the share of prunable parameters.",
        "results/reduce.py",
        "        row |= {name: mark.values[name] for name in names}\n",
        '        row |= {name: mark.values[name] for name in names} | {"remaining": mark.values["remaining_pool"]}\n',
        ("results/test_reduce.py::test_accuracy_and_remaining_are_those_of_the_networks",),
    ),
)

KINDS = (
    Kind(
        "A value without meaning is marked", DOUBTFUL_VALUES, also=("forced-correlations-counted-by-n", "chance-by-n")
    ),
    Kind("A metric of one's own does not damage a store", OWN_METRICS),
    Kind(
        "Claims say what the papers say",
        JUDGEMENTS,
        also=(
            "claims-fall-by-rank-or-slope",
            "claims-fall-by-any-amount",
            "claims-climb-back",
            "claims-fall-in-any-layer",
            "claims-u-with-the-output",
            "claims-c3-without-a-spike",
            "claims-of-reduced-problems",
            "vgg16-steps-of-renda",
        ),
    ),
    Kind(
        "Mistakes of the science that no test saw",
        UNSEEN,
        also=(
            "ranked-by-the-complete-network",
            "vgg-batch-norm-of-keras",
            "remaining-over-the-pool",
            "objects-not-synced",
            "late-mark-accepted",
            "generations-skipped",
            "swept-before-the-mark",
        ),
    ),
)
