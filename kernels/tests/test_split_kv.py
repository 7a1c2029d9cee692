"""Decode steps over a long cache against the reference, rows at different positions; what was never written is NaN."""

import pytest
import torch
from torch import Tensor

from kernels.attention import OP, reference
from kernels.attention.reference import Cache
from kernels.check import relative_error
from kernels.tests.optional import loaded

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
POSITIONS = [0, 1, 127, 128, 300, 519]


def filled(
    positions: list[int], length: int, heads: int, width: int, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Cache:
    """A cache of random tokens, NaN after each row's position."""
    generator = torch.Generator(device).manual_seed(1)
    shape = (len(positions), heads, length, width)
    key, value = (torch.randn(shape, generator=generator, device=device).to(dtype) for _ in range(2))
    held = torch.tensor(positions, dtype=torch.int32, device=device)
    unwritten = torch.arange(length, device=device) >= held[:, None]
    for tensor in (key, value):
        tensor.masked_fill_(unwritten[:, None, :, None], float("nan"))
    return Cache(key, value, held)


def tokens(cache: Cache, steps: int) -> Tensor:
    """q, k, v of some further tokens, [3, steps, B, H, F]."""
    rows, heads, _, width = cache.key.shape
    generator = torch.Generator(cache.key.device).manual_seed(2)
    drawn = torch.randn(3, steps, rows, heads, width, generator=generator, device=cache.key.device)
    return drawn.to(cache.key.dtype)


def copy_of(cache: Cache) -> Cache:
    """In float32; zero after the position, as the reference takes those values times zero."""
    return Cache(cache.key.float().nan_to_num(), cache.value.float().nan_to_num(), cache.position.clone())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("width", [16, 24])
@pytest.mark.parametrize("slices", [1, 3])
def test_steps_are_the_references(device: str, width: int, slices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from kernels.attention import split_kv

    heads, length = 2, 521
    monkeypatch.setattr(split_kv, "PROGRAMS", slices * heads * len(POSITIONS))
    monkeypatch.setattr(split_kv, "SLICE", 128)
    cache = filled(POSITIONS, length, heads, width, device=device)
    expected = copy_of(cache)
    for q, k, v in tokens(cache, 2).unbind(1):
        out = split_kv.step(q, k, v, cache)
        torch.testing.assert_close(out, reference.step(q, k, v, expected), rtol=1e-5, atol=1e-5)
    assert torch.equal(cache.position, expected.position)
    after = torch.arange(length, device=device) >= cache.position[:, None]
    for found, right in ((cache.key, expected.key), (cache.value, expected.value)):
        assert torch.equal(found.nan_to_num(), right)
        assert found[after[:, None].expand(-1, heads, -1)].isnan().all()


def test_large_scores_do_not_overflow() -> None:
    from kernels.attention import split_kv

    cache = filled([200], 256, 1, 16)
    cache.key *= 1e3
    expected = copy_of(cache)
    q, k, v = tokens(cache, 1)[:, 0]
    torch.testing.assert_close(split_kv.step(q, k, v, cache), reference.step(q, k, v, expected), rtol=1e-5, atol=1e-5)


def test_a_full_row_is_nan_and_writes_nothing() -> None:
    from kernels.attention import split_kv

    cache = filled([128, 5], 128, 1, 16)
    before = copy_of(cache)
    q, k, v = tokens(cache, 1)[:, 0]
    out = split_kv.step(q, k, v, cache)
    assert out[0].isnan().all() and not out[1].isnan().any()
    torch.testing.assert_close(cache.key[0], before.key[0], rtol=0, atol=0)
    assert cache.key[1, 0, 6:].isnan().all()


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # other packages' own
@pytest.mark.parametrize("impl", ["split_kv", "flash_attn", "sdpa_cudnn"])
@pytest.mark.parametrize("rows", [1, 64])
def test_long_caches_in_16_bits(impl: str, rows: int) -> None:
    """In a graph too, whose replays go on from where the last one stopped."""
    step = loaded(OP, impl).step
    cache = filled([(997 * row + 4000) % 4096 for row in range(rows)], 4200, 4, 64, torch.bfloat16, "cuda")
    expected = copy_of(cache)
    queries = tokens(cache, 4)
    token = queries[:, 0].clone()
    q, k, v = token
    for n in range(2):  # warm-up
        token.copy_(queries[:, n])
        out = step(q, k, v, cache)
        assert relative_error(out, reference.step(q.float(), k.float(), v.float(), expected)) < 5e-3
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step(q, k, v, cache)
    for n in range(2, 4):
        token.copy_(queries[:, n])
        graph.replay()
        assert relative_error(out, reference.step(q.float(), k.float(), v.float(), expected)) < 5e-3
    assert torch.equal(cache.position, expected.position)
