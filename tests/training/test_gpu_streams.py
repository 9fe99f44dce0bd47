"""Each captured step, and extraction, has a CUDA stream that nobody else has."""

import gc
import itertools
from types import SimpleNamespace

import pytest
import torch

from distsim.problems import PROBLEMS
from distsim.sweep.order import checked
from distsim.training.streams import MOST_RUNS, STREAMS, own_stream

GPU = torch.device("cuda", 0)


class Owner:
    """Whoever has a stream."""


@pytest.fixture
def in_turn():
    """A way to get streams that hands out as many as PyTorch has, in turn. Their numbers are no real stream's."""
    numbers = itertools.cycle(range(-STREAMS, 0))
    return lambda device: SimpleNamespace(device=device, cuda_stream=next(numbers))


def test_a_stream_has_one_owner_for_its_life(in_turn):
    first = Owner()
    its = own_stream(first, GPU, in_turn).cuda_stream
    for _ in range(2 * STREAMS):  # each owner is gone when the next one comes
        assert own_stream(Owner(), GPU, in_turn).cuda_stream != its
    del first
    others = [Owner() for _ in range(STREAMS)]
    taken = [own_stream(owner, GPU, in_turn).cuda_stream for owner in others]
    assert len(set(taken)) == STREAMS
    assert its in taken, "it is free again"
    with pytest.raises(RuntimeError, match=r"all 32 streams of cuda:0 are in use, by 31 runs and by extraction"):
        own_stream(Owner(), GPU, in_turn)


def test_a_cpu_has_no_streams():
    assert own_stream(Owner(), torch.device("cpu")) is None


def test_a_pack_with_more_runs_than_streams_is_refused_on_a_gpu():
    with pytest.raises(ValueError, match=r"pack must be at most 31 on a GPU, .* got 32"):
        checked(PROBLEMS["digits"], device="cuda", pack=MOST_RUNS + 1)
    checked(PROBLEMS["digits"], device="cuda", pack=MOST_RUNS)
    checked(PROBLEMS["digits"], device="cpu", pack=MOST_RUNS + 1)


@pytest.mark.gpu
def test_streams_of_a_gpu_have_one_owner_each():
    """CPU twin: test_a_stream_has_one_owner_for_its_life."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    gc.collect()
    extraction, device = Owner(), torch.device("cuda")
    its = own_stream(extraction, device)
    for _ in range(2 * STREAMS):
        assert own_stream(Owner(), device).cuda_stream != its.cuda_stream
    owners = [Owner() for _ in range(20)]
    assert len({own_stream(owner, device).cuda_stream for owner in owners} | {its.cuda_stream}) == 21
