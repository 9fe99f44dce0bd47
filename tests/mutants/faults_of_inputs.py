"""Faults that outsiders found with activations, arguments, names and images that they gave, made again."""

from mutants.mutant import Kind, Mutant

ANY = "comparison/test_any_input.py::"
NAMED = (ANY + "test_a_mistaken_argument_is_named",)
WIDE = (ANY + "test_activations_of_float64_are_not_rounded_to_float32",)
API = "test_api.py::"
FOLDER = "data/test_image_folder.py::"
CIRCLE = (FOLDER + "test_a_link_in_a_circle_is_named",)

VALUES = (
    Mutant(
        "arrays-are-rounded-to-float32",
        "Arrays of float64 are rounded, and CKA of values about 1e7 is that of other values.",
        "comparison/given.py",
        "held = narrow if np.array_equal(narrow, wide) else wide",
        "held = narrow",
        WIDE,
    ),
    Mutant(
        "tensors-are-rounded-to-float32",
        "Tensors of float64 are rounded, though arrays are not.",
        "comparison/given.py",
        "narrow = values.is_floating_point() and values.dtype != torch.float64",
        "narrow = values.is_floating_point()",
        WIDE,
    ),
    Mutant(
        "whole-numbers-that-float64-merges",
        "Whole numbers of which float64 makes one number are compared as if they were equal.",
        "comparison/given.py",
        "    if _is_coarse(array, wide):\n",
        "    if False:\n",
        (ANY + "test_whole_numbers_are_not_rounded",),
    ),
    Mutant(
        "values-whose-powers-overflow",
        "Activations of 1e300 give no number, and nothing names their layer.",
        "comparison/given.py",
        "    if largest and not 1 / LARGEST <= largest <= LARGEST:\n",
        "    if False:\n",
        (ANY + "test_activations_of_no_size_for_float64_are_refused_by_name",),
    ),
    Mutant(
        "masks-are-forgotten",
        "What a mask hides of activations is compared.",
        "comparison/given.py",
        "    if isinstance(values, np.ma.MaskedArray):\n",
        "    if False:\n",
        (ANY + "test_activations_that_are_no_dense_numbers_are_refused",),
    ),
    Mutant(
        "sparse-tensors-end-in-a-traceback",
        "A sparse tensor ends distsim.compare in an error of PyTorch's.",
        "comparison/given.py",
        "        if values.layout != torch.strided or values.is_quantized or values.is_meta:\n",
        "        if False:\n",
        (ANY + "test_activations_that_are_no_dense_numbers_are_refused",),
    ),
    Mutant(
        "keys-that-read-alike-are-one-layer",
        "Of two layers whose keys read alike one is left out without a word.",
        "comparison/given.py",
        "    if len(named) < len(given):\n",
        "    if False:\n",
        (ANY + "test_keys_that_read_alike_are_two_layers",),
    ),
    Mutant(
        "data-of-this-machines-byte-order-only",
        "Inputs of the other byte order end in an error of PyTorch's.",
        "comparison/inputs.py",
        'np.ascontiguousarray(batch, known.newbyteorder("="))',
        "np.ascontiguousarray(batch)",
        (ANY + "test_arrays_of_any_byte_order_are_data",),
    ),
    Mutant(
        "data-behind-a-mask",
        "A model sees what a mask hides of its inputs.",
        "comparison/inputs.py",
        "    if isinstance(batch, np.ma.MaskedArray):\n",
        "    if False:\n",
        (ANY + "test_arrays_of_any_byte_order_are_data",),
    ),
    Mutant(
        "data-that-are-no-numbers",
        "Inputs of text end in an error that names no argument.",
        "comparison/inputs.py",
        "    if isinstance(together, np.ndarray):\n",
        "    if False:\n",
        (ANY + "test_data_that_are_no_numbers_are_refused",),
    ),
)

ARGUMENTS = (
    Mutant(
        "metrics-that-are-no-names",
        "metrics=5 ends in an error that does not name the argument.",
        "comparison/arguments.py",
        '        raise TypeError(f"metrics must be a name or a list of names, got {shown(names)}")\n',
        "        return known(names)\n",
        NAMED,
    ),
    Mutant(
        "channels-that-are-no-dict",
        "channels=5 ends in an error that does not name the argument.",
        "comparison/arguments.py",
        "    if not isinstance(channels, Mapping):\n",
        "    if False:\n",
        NAMED,
    ),
    Mutant(
        "channels-of-no-given-layer",
        "A misspelt layer in channels goes unnoticed where only arrays are compared.",
        "comparison/models.py",
        "        else:\n            require_channels(channels, given)\n",
        "",
        NAMED,
    ),
    Mutant(
        "channels-of-networks-only",
        "channels may not name a layer of an array beside a network.",
        "comparison/recording.py",
        "names.union(given)",
        "names",
        (ANY + "test_channels_of_activations_beside_a_network",),
    ),
    Mutant(
        "progress-of-any-kind",
        'progress="no" shows a bar.',
        "comparison/arguments.py",
        "    if asked is not None and not isinstance(asked, bool):\n",
        "    if False:\n",
        NAMED,
    ),
    Mutant(
        "whole-numbers-of-numpy-are-none",
        "distsim.compare refuses a batch size that NumPy has computed.",
        "comparison/arguments.py",
        "    number = plain(value)\n    if (\n",
        "    number = value\n    if (\n",
        (ANY + "test_numbers_of_numpy_are_numbers",),
    ),
    Mutant(
        "networks-by-numbers-of-numpy",
        "study.network does not find a network by numbers of NumPy's.",
        "api/study.py",
        "        run, iteration, complete = plain(run), plain(iteration), plain(complete)\n",
        "",
        (API + "test_numbers_of_numpy_name_networks",),
    ),
    Mutant(
        "reports-to-a-number",
        "study.report(5) ends in an error that does not name the argument.",
        "api/study.py",
        '        require_path("file", file)\n',
        "",
        (API + "test_wrong_questions",),
    ),
    Mutant(
        "no-control-among-the-controls",
        "The error of network(control=None) names an option of no letters.",
        "api/arguments.py",
        'shown("") if option == "" else str(option)',
        "str(option)",
        (API + "test_wrong_questions",),
    ),
    Mutant(
        "open-nothing-opens-here",
        'distsim.open("") opens the current folder.',
        "api/opening.py",
        "if not isinstance(store, str | Path) or not str(store):",
        "if not isinstance(store, str | Path):",
        (API + "test_open_creates_nothing",),
    ),
    Mutant(
        "names-of-layers-are-patterns-in-figures",
        "A layer whose name has brackets cannot be drawn by its name.",
        "results/figures.py",
        "found = {pattern} if pattern in there else {layer",
        "found = {layer",
        ("results/test_figures.py::test_a_layer_is_chosen_by_its_own_name_or_by_a_pattern",),
    ),
    Mutant(
        "names-of-layers-are-patterns-in-models",
        "A layer whose name has brackets cannot be compared by its name.",
        "models/compared.py",
        "matching = exact or {call",
        "matching = {call",
        ("models/test_any_module.py::test_a_module_is_named_as_it_is_or_by_a_pattern",),
    ),
)

IMAGES = (
    Mutant(
        "twelve-bits-beside-eight-are-almost-black",
        "Grey images of 12 bits beside others of 8 bits are scaled as if they had 16.",
        "data/folder.py",
        "    widened = None in greys and all(grey.widened for grey in deep)\n",
        "    widened = None in greys\n",
        (FOLDER + "test_sixteen_bits_beside_eight_are_scaled_by_the_bits_that_they_use",),
    ),
    Mutant(
        "scans-are-converted-whole",
        "A scan of 256 megapixels with 16 bits takes 3.4 GB.",
        "data/fit.py",
        "    rows = max(1, _STRIP // width)\n",
        "    rows = height\n",
        (FOLDER + "test_a_scan_of_sixteen_bits_is_converted_in_strips",),
    ),
    Mutant(
        "colours-are-weighted-by-alpha",
        "Images with alpha are resized by Pillow, which weights their colours.",
        "data/fit.py",
        '    if image.mode != "RGBA":\n',
        "    if True:\n",
        (FOLDER + "test_alpha_is_dropped_and_grey_made_colour_as_before_resizing",),
    ),
    Mutant(
        "circles-point-to-nothing",
        "A link that leads in a circle is called one that points to nothing.",
        "data/folder.py",
        "        if error.errno == errno.ELOOP:\n",
        "        if False:\n",
        CIRCLE,
    ),
    Mutant(
        "circles-end-the-listing",
        "A link that leads in a circle ends a sweep, and --skip-bad does not leave it out.",
        "data/folder.py",
        "if _points_to_nothing(entry) or entry.is_file()",
        "if entry.is_file() or _points_to_nothing(entry)",
        CIRCLE,
    ),
    Mutant(
        "classes-in-a-circle-are-none",
        "A class whose link leads in a circle is left out without a word.",
        "data/folder.py",
        "if circles := [path for path in shown if path.is_symlink() and _broken(path) == _CIRCLE]:",
        "if circles := list[Path]():",
        CIRCLE,
    ),
)

KINDS = (
    Kind("Activations and data are taken as they are, or refused by name", VALUES),
    Kind("A mistaken argument is named, and a name is no pattern", ARGUMENTS),
    Kind("Greys, scans and circles in folders of images", IMAGES),
)
