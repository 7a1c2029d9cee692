"""``python -m bench.generate MODEL --prompt TEXT``: continues a text, one token after another, and says how fast.

MODEL is what bench.pretrained.load_pretrained takes: the folder of a training run, or of a conversion (bench/convert.py).
The continuation goes to standard output, all else to standard error.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from bench.build import DTYPES
from bench.data import DataError
from bench.data.tokenizer import Tokenizer
from bench.errors import EXPECTED
from bench.hardware import device_name
from bench.pretrained import load_pretrained
from models.lm import LM

Pick = Callable[[Float[Tensor, " V"]], int]


def sampler(temperature: float, top_k: int, seed: int) -> Pick:
    """Picks a token by its logits: the likeliest at temperature 0, else at random, among the ``top_k`` likeliest (0: all)."""
    generator = torch.Generator().manual_seed(seed)

    def pick(logits: Float[Tensor, " V"]) -> int:
        logits = logits.float().cpu()
        if temperature == 0:
            return int(logits.argmax())
        kept, tokens = logits.topk(min(top_k or len(logits), len(logits)))
        return int(tokens[torch.multinomial((kept / temperature).softmax(0), 1, generator=generator)])

    return pick


def encoded(prompt: str, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a prompt. Raises DataError where there is none, as a model starts from one."""
    tokens: list[int] = tokenizer.encode(prompt).tolist()
    if not tokens:
        raise DataError("the prompt holds no token; give a text")
    return tokens


def continuation(lm: LM, prompt: Sequence[int], tokens: int, pick: Pick, vocab: int) -> Iterator[int]:
    """``tokens`` further tokens, each below ``vocab``: a prefill, then a step for each but the last."""
    device = lm.embedding.weight.device
    state = lm.init_state(1, len(prompt) + tokens)
    logits = lm.prefill(torch.tensor([list(prompt)], device=device), state)
    for n in range(tokens):
        token = pick(logits[0, :vocab])
        yield token
        if n + 1 < tokens:
            logits = lm.step(torch.tensor([token], device=device), state)


def pieces(tokens: Iterator[int], tokenizer: Tokenizer) -> Iterator[str]:
    """The text of tokens as they come; a character is held back until it is whole."""
    seen: list[int] = []
    shown = ""
    for token in tokens:
        seen.append(token)
        text = tokenizer.decode(np.array(seen))
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            yield text[len(shown) :]
            shown = text
    if seen:
        yield tokenizer.decode(np.array(seen))[len(shown) :]


def timed(tokens: Iterator[int], seconds: list[float]) -> Iterator[int]:
    """The same tokens; adds what each took to ``seconds``, the prefill to the first."""
    start = time.perf_counter()
    for token in tokens:
        seconds.append(time.perf_counter() - start)
        yield token
        start = time.perf_counter()


def speed(prompt: int, seconds: Sequence[float]) -> str:
    """What to say of the times of a prompt of so many tokens and of each token after it."""
    first, *steps = seconds
    rate = f"; {len(steps)} steps in {sum(steps):.3f} s, {len(steps) / sum(steps):.1f} tokens/s" if steps else ""
    return f"prefill of {prompt} tokens {first:.3f} s{rate}"


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(prog="python -m bench.generate", description=__doc__)
    made.add_argument("model", type=Path, metavar="MODEL")
    prompt = made.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT")
    prompt.add_argument("--stdin", action="store_true", help="the prompt is standard input")
    made.add_argument(
        "--tokens", type=_at_least(int, 1), default=200, metavar="N", help="how many further tokens (default: 200)"
    )
    made.add_argument(
        "--temperature", type=_at_least(float, 0), default=1.0, metavar="T", help="0 takes the likeliest (default: 1)"
    )
    made.add_argument("--top-k", type=_at_least(int, 0), default=0, metavar="K", help="only the K likeliest; 0: all (default)")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--tokenizer", metavar="NAME|FILE", help="instead of what MODEL says")
    made.add_argument("--device", default="cpu", help="cpu (default), cuda")
    made.add_argument("--dtype", choices=DTYPES, default="float32")
    made.add_argument("--impl", help="implementation of the layers (default on a CPU: reference, else the run's)")
    return made


def _at_least(kind: type[int] | type[float], least: int) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = kind(text)
        if not least <= value < math.inf:
            raise argparse.ArgumentTypeError(f"{text} is not possible: at least {least}")
        return value

    return read


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    words = parser().parse_args(argv)
    try:
        device_name(words.device)
        model = load_pretrained(words.model, DTYPES[words.dtype], words.device, tokenizer=words.tokenizer, impl=words.impl)
        prompt = model.tokenizer.encode(sys.stdin.read() if words.stdin else words.prompt).tolist()
        if not prompt:
            raise DataError("the prompt holds no token; give a text")
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    seconds: list[float] = []
    pick = sampler(words.temperature, words.top_k, words.seed)
    tokens = timed(continuation(model.lm, prompt, words.tokens, pick, model.tokenizer.vocab), seconds)
    try:
        for piece in pieces(tokens, model.tokenizer):
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        print(" (interrupted)", end="", file=sys.stderr)
    print()
    if seconds:
        print(speed(len(prompt), seconds), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
