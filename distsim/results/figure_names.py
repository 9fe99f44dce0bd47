"""The names of figures: the papers' by their numbers. "P1" is the ICPRAM 2020 paper, "P2" its 2021 extension."""

OF_P2 = {"fig5": "vgg16_cifar10", "fig6": "vgg_svhn", "fig7": "resnet_fast_cifar10"}
NAMES = {
    "fig1": "accuracy, medians",
    "fig2": "one metric by layer",
    "fig4": "accuracy, means",
    **{name: f"several metrics by layer, of {problem} or another problem" for name, problem in OF_P2.items()},
    "fig8": "the output layer",
    "similarity": "several metrics by layer, of any problem",
    "more": "by layer the metrics that the papers' figures do not show",
    "functional": "predictions for the test images",
}
OF_ALL_PROBLEMS = ("fig1", "fig2", "fig4")  # the others are of one each
TAKE_METRICS = ("fig2", *OF_P2, "fig8", "similarity")
TAKE_LAYERS = ("fig2", *OF_P2, "similarity", "more")
