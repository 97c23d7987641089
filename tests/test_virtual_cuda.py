"""The virtual GPU of `virtual_cuda` refuses what a GPU refuses, and nothing else."""

import copy
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from virtual_cuda import virtual_cuda

MIXED = "Expected all tensors to be on the same device"


@pytest.fixture(autouse=True)
def gpu():
    with virtual_cuda():
        yield


def test_torch_has_a_gpu_within_and_none_behind():
    assert torch.cuda.is_available() and torch.cuda.mem_get_info("cuda")[1] == 16 * 10**9
    x = torch.ones(2, device="cuda")
    assert x.device == torch.device("cuda:0") and x.is_cuda and not x.is_cpu
    assert (x + 1).is_cuda and not x.cpu().is_cuda and x.to("cpu").device.type == "cpu"


@pytest.mark.parametrize(
    "mix",
    [
        lambda cuda, cpu: cuda + cpu,
        lambda cuda, cpu: cpu.mul_(cuda),
        lambda cuda, cpu: torch.cat([cuda, cpu]),
        lambda cuda, cpu: torch.where(cpu > 0, cuda, 0.0),
        lambda cuda, cpu: cpu + cuda.sum(),
        lambda cuda, cpu: F.linear(cuda[None], cpu[None]),
        lambda cuda, cpu: nn.Linear(3, 1).to("cuda")(cpu),
        lambda cuda, cpu: torch.equal(cuda, cpu),
        lambda cuda, cpu: cuda.__setitem__([0, 1, 2], cpu),
    ],
)
def test_devices_do_not_mix(mix):
    with pytest.raises(RuntimeError, match=MIXED):
        mix(torch.ones(3, device="cuda"), torch.ones(3))


def test_a_cpu_tensor_cannot_be_indexed_from_the_gpu_but_the_other_way_round():
    cuda, cpu = torch.arange(3, device="cuda"), torch.arange(3)
    with pytest.raises(RuntimeError, match="indices should be either on cpu"):
        cpu[cuda]
    assert cuda[cpu].is_cuda and cuda[cpu > 1].tolist() == [2]
    cuda[1:] = cpu[:2]  # a copy, which may change device
    assert cuda.tolist() == [0, 0, 1]


def test_numbers_mix_with_everything():
    cuda, number = torch.ones(2, device="cuda"), torch.tensor(2.0)
    assert (cuda * number).is_cuda and float(cuda.sum() * number) == 4
    assert not torch.tensor([cuda[0], cuda[1]]).is_cuda


@pytest.mark.parametrize(
    "read", [lambda x: x.numpy(), np.asarray, lambda x: np.testing.assert_allclose(x, 1)]
)
def test_numpy_cannot_read_it(read):
    x = torch.ones(2, device="cuda")
    with pytest.raises(TypeError, match="can't convert cuda"):
        read(x)
    read(x.cpu())


def test_a_cpu_generator_draws_nothing_there():
    draws = torch.Generator().manual_seed(0)
    with pytest.raises(RuntimeError, match="'cuda' device type for generator"):
        torch.randn(2, generator=draws, device="cuda")
    with pytest.raises(RuntimeError, match="'cuda' device type for generator"):
        torch.ones(2, device="cuda").normal_(generator=draws)
    assert torch.randn(2, generator=draws).to("cuda").is_cuda


def test_a_network_learns_there_as_it_does_on_the_cpu():
    losses = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 1)).to(device)
        adam, x = torch.optim.Adam(network.parameters(), lr=0.1), torch.ones(2, 3).to(device)
        for _ in range(3):
            adam.zero_grad()
            loss = network(x).square().mean()
            loss.backward()
            adam.step()
        twin = copy.deepcopy(network)
        assert all(p.device.type == device for p in twin.parameters()) and len(list(twin.parameters())) == 4
        torch.testing.assert_close(twin(x).cpu(), network(x).cpu())
        losses.append(float(loss.detach()))
    assert losses[0] == losses[1] < 1


def test_moving_copies_and_staying_does_not():
    cpu = torch.zeros(2)
    cuda = cpu.to("cuda", torch.float32)
    cuda += 1
    assert cpu.tolist() == [0, 0] and cuda.tolist() == [1, 1]
    assert cuda.to("cuda") is cuda and cpu.to(cpu) is cpu
    assert cuda.half().dtype == torch.float16 and cpu.to(cuda.half()).is_cuda


def test_threads_have_the_gpu_too():
    found = []
    thread = threading.Thread(target=lambda: found.append(torch.zeros(1, device="cuda").is_cuda))
    thread.start()
    thread.join()
    assert found == [True]
