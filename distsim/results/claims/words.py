"""What the claims of the papers say, in words. docs/claims.md has the same table."""

SAYS = {
    "C1": "On the easy problems (cifar2, cifar4) similarity falls from iteration to iteration.",
    "C2": "On the easy problems similarity falls from the input to the output.",
    "C3": "On the hard problems (cifar6 to cifar10) similarity is high at the first convolution and lowest "
    "about the third block; it jumps up at the hidden layer.",
    "C4": "Iterations lie closer together on the hard problems than on the easy ones.",
    "C5": "VGG16: SVCCA and PWCCA are U-shaped over the layers, lowest about the third block, a little above "
    "0.3; the output is above 0.9. They fall with the iteration.",
    "C6": "VGG16: CKA is never below 0.75 and falls towards the output. The first two blocks are packed, later "
    "ones fan out. The output's CKA gathers near 0.79.",
    "C7": "VGG16: NBS lies within 0.7 and 1.0, fans out from block 3, is lowest about the third pooling, and "
    "recovers. The output's NBS is above its CKA.",
    "C8": "VGG_SVHN: SVCCA and PWCCA are lowest in blocks 3 and 4 and do not recover before the output. NBS is "
    "close to CKA, but for a bowl of CKA in block 3.",
    "C9": "ResNet: SVCCA is above 0.40 and PWCCA above 0.45, lowest at the third convolution. CKA is above "
    "about 0.90 without a trend, NBS above 0.82.",
    "C10": "The first pruned networks beat the complete one. The peak is at about 10 % of the parameters. Then "
    "accuracy declines slowly.",
    "C11": "VGG16's output: SVCCA, PWCCA and NBS are above 0.9. The cosine spreads from 0.80 to 0.97.",
    "C12": "In every model and metric, similarity falls with the iteration.",
    "C13": "CKA is at least 0.75 in all models.",
    "C14": "NBS has its minimum two or three layers after SVCCA and PWCCA.",
    "C15": "Pooling layers are more similar than the convolution before them.",
    "C16": "Pruned networks are as accurate as the complete one, or better.",
    "C17": "SVCCA has the same shape when the learning rate is rewound (LRR) and when the weights are (WR).",
    "C18": "The trends cannot come from another path of the optimiser alone.",
}
SHORT = {  # continues "it bears out that ..."
    "C1": "similarity falls from iteration to iteration",
    "C2": "similarity falls from input to output",
    "C3": "similarity is lowest about the third block",
    "C4": "iterations lie closer together on the harder problems",
    "C5": "SVCCA and PWCCA are U-shaped over the layers",
    "C6": "CKA stays above 0.75 and falls towards the output",
    "C7": "NBS is lowest about the third pooling and recovers",
    "C8": "SVCCA and PWCCA are lowest in blocks 3 and 4 and do not recover",
    "C9": "CKA and NBS of the ResNet stay high without a trend",
    "C10": "the first pruned networks beat the complete one",
    "C11": "the output stays above 0.9",
    "C12": "similarity falls from iteration to iteration",
    "C13": "CKA is at least 0.75 in all layers",
    "C14": "NBS has its minimum two or three layers after SVCCA and PWCCA",
    "C15": "pooling layers are more similar than the convolution before them",
    "C16": "pruned networks are as accurate as the complete one",
    "C17": "both kinds of rewinding give SVCCA the same shape",
    "C18": "the trends cannot come from another path of the optimiser alone",
}
