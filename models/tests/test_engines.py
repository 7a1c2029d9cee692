"""Other packages' kernels in the models, on a GPU: pieces of a sequence, then steps, as the reference in float32 has them."""

from itertools import pairwise

import pytest
import torch

from kernels import attention, selective_scan, ssd
from kernels.check import relative_error
from kernels.op import Op
from kernels.tests.optional import loaded
from models.mixer import Size
from models.tests.conftest import build_model

SIZE = Size(width=128, layers=2, heads=2, ffn=256)
ENGINES = [("mamba", selective_scan.OP, "mamba_ssm"), ("mamba2", ssd.OP, "mamba_ssm")]
ENGINES += [("transformer", attention.OP, impl) for impl in ("split_kv", "sdpa_flash", "sdpa_cudnn", "flash_attn")]


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # other packages' own
@pytest.mark.parametrize(("name", "op", "impl"), ENGINES, ids=lambda value: getattr(value, "name", value))
@torch.no_grad()
def test_prefill_in_pieces_and_steps(name: str, op: Op, impl: str) -> None:
    """Logits after each piece: of a whole chunk and a ragged one, of fewer tokens than the convolution keeps, of one."""
    loaded(op, impl)
    with torch.device("cuda"):
        torch.manual_seed(0)
        engine = build_model(name, SIZE, 256, impl=impl).bfloat16()
        reference = build_model(name, SIZE, 256)
        tokens = torch.randint(256, (3, 700))
    reference.load_state_dict(engine.state_dict())
    state, whole = engine.init_state(3, 700), reference(tokens)
    found = {end - 1: engine.prefill(tokens[:, start:end], state) for start, end in pairwise((0, 512, 642, 644, 645, 665))}
    found |= {at: engine.step(tokens[:, at], state) for at in range(665, 700)}
    logits = torch.stack(list(found.values()), dim=1)
    assert relative_error(logits, whole[:, list(found)]) < 0.03
    assert relative_error(engine(tokens), whole) < 0.03
