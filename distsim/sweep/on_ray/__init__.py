"""The engine that works on Ray. Only these modules import Ray, and `distsim doctor --address`.

cluster      connects to Ray, starts it here, and watches whether its head lives
hosts        asks each machine whether it is fit for work, and keeps work away from those that are not
room         what the machines can hold: bundles, memory, refusals in a sentence
parcels      what every machine is sent once: data, and your own network and metrics
deaths       what to do when a worker dies: repeat, give up, or blame its machine
trials       what Tune is told to run: chains of networks, one trial each
comparisons  the actors that compare layers
early        comparisons while others still train
engine       puts them together
"""
