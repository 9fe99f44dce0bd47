"""Faults that outsiders found with what a network does for its batch and with its output, made again."""

from mutants.mutant import Kind, Mutant

COMPARED = "comparison/test_models_compared.py::"
ANSWERS = "models/test_answers.py::"
SAID = (ANSWERS + "test_what_a_model_does_for_a_batch_is_said_with_its_name",)
WHEREVER = (ANSWERS + "test_it_is_said_wherever_a_network_runs",)

BATCHES = (
    Mutant(
        "earlier-images-unseen-in-sweeps",
        "A network that mixes an image with earlier ones of its batch is trained and compared.",
        "models/contract.py",
        "in ((first, result[:1]), (last, result[-1:])):",
        "in ((first, result[:1]),):",
        ("models/test_contract.py::test_refused",),
    ),
    Mutant(
        "earlier-examples-unseen-in-compare",
        "distsim.compare takes layers that mix an example with earlier ones of its batch.",
        "comparison/recording.py",
        "            for start in (0, n - few):\n",
        "            for start in (0,):\n",
        (COMPARED + "test_values_that_depend_on_earlier_examples_only_are_refused_by_name",),
    ),
    Mutant(
        "batches-of-one-unchecked",
        "Of batches of one input nothing is checked.",
        "comparison/recording.py",
        "        elif len(self._ones) < 2:\n",
        "        elif False:\n",
        (COMPARED + "test_batches_of_one_input_are_checked_too",),
    ),
    Mutant(
        "models-that-fail-go-unnamed",
        "A model that fails for a batch ends a sweep in a traceback of its own code.",
        "models/answers.py",
        "        if run is not network or _of_the_machine(error):\n",
        "        if True:\n",
        SAID,
    ),
    Mutant(
        "answers-that-are-no-logits",
        "A model that returns a tuple for a large batch ends a sweep in a traceback.",
        "models/answers.py",
        "    if isinstance(logits, torch.Tensor) and logits.ndim == 2 and len(logits) == len(images):\n",
        "    if True:\n",
        SAID,
    ),
    Mutant(
        "models-that-lack-memory-are-blamed",
        "A lack of memory is called a fault of the model's.",
        "models/answers.py",
        "        return any(part in str(error) for part in _MACHINE)\n",
        "        return False\n",
        (ANSWERS + "test_what_is_about_the_machine_is_raised_as_it_is",),
    ),
    Mutant(
        "models-that-fail-in-training-go-unnamed",
        "What a model does wrong for a batch in training ends a sweep in a traceback.",
        "training/stepper.py",
        "logits_of(self.network, images, self._logits)",
        "self._logits(images)",
        (ANSWERS + "test_a_sweep_says_it_in_one_sentence",),
    ),
    Mutant(
        "models-that-fail-on-the-test-set-go-unnamed",
        "What a model does wrong for a batch of the test set ends a sweep in a traceback.",
        "training/loop.py",
        "logits = logits_of(network, augment",
        "logits = network(augment",
        WHEREVER,
    ),
    Mutant(
        "models-that-fail-on-the-probe-go-unnamed",
        "What a model does wrong for a batch of the probe ends a sweep in a traceback.",
        "activations/probe.py",
        "logits_of(network, augment",
        "network(augment",
        WHEREVER,
    ),
    Mutant(
        "models-that-fail-in-a-criterion-go-unnamed",
        "What a model does wrong while a criterion measures its weights ends a sweep in a traceback.",
        "training/criteria.py",
        "output = logits_of(network, augment",
        "output = network(augment",
        WHEREVER,
    ),
    Mutant(
        "outputs-of-no-module-are-refused",
        "A network that ends in a function of PyTorch's is refused after the start of a sweep.",
        "store/described.py",
        "    module: _Path",
        "    module: _Text",
        (
            "store/test_described.py::test_what_is_written_is_read",
            "test_api.py::test_an_output_that_is_no_modules_is_compared",
        ),
    ),
)

KINDS = (Kind("What a network does for its batch is seen and said", BATCHES),)
