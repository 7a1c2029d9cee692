"""``python -m models.tests.compiled BACKEND MODEL[:IMPL]…``: the law of inference for compiled blocks, a line for each model.

In a process of its own, as the checks of shapes that tests run under do not compile.
"""

import sys

import torch
from torch._dynamo.utils import counters

from models.mixer import Size
from models.tests.conftest import build_model

SIZE, VOCAB = Size(width=16, layers=2, heads=1, ffn=24), 11
STEPS = 2


@torch.no_grad()
def largest_error(name: str, impl: str, backend: str) -> float:
    """Of logits of a beginning and of steps after it, for two batches and lengths, against whole sequences."""
    torch.manual_seed(0)
    compiled, eager = (build_model(name, SIZE, VOCAB, impl=which).eval() for which in (impl, "reference"))
    eager.load_state_dict(compiled.state_dict())
    compiled.unite().compile_inference(backend)
    found = []
    for batch, length in ((3, 5), (4, 18)):
        tokens = torch.randint(VOCAB, (batch, length + STEPS))
        whole, state = eager(tokens), compiled.init_state(batch, length + STEPS)
        found.append(compiled.begin(tokens[:, :length], state) - whole[:, length - 1])
        found += [compiled.step(tokens[:, at], state) - whole[:, at] for at in range(length, length + STEPS)]
    return max(error.abs().max().item() for error in found)


if __name__ == "__main__":
    torch.backends.cudnn.allow_tf32 = False  # of eager convolutions
    torch.set_default_device("cuda" if torch.cuda.is_available() else "cpu")
    for word in sys.argv[2:]:
        name, _, impl = word.partition(":")
        before = counters["stats"]["unique_graphs"]
        error = largest_error(name, impl or "reference", sys.argv[1])
        print(name, error, counters["stats"]["unique_graphs"] - before)
