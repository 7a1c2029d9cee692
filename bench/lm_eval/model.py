"""Our models as lm-eval's ``--model ttt_bench``.

Scores are those of lm-eval's own causal models (``hf``): a context is cut from the left to ``max_length`` tokens in all, a
long text is read in disjoint windows of ``max_length``, each begun anew, so that a model with a state has no more before a
token than one with a cache would have. The default is the training context; ``max_length=32768`` lets a model read on.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lm_eval import utils
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

from bench.build import DTYPES
from bench.config import ConfigError
from bench.hardware import device_name
from bench.pretrained import Pretrained, load_pretrained
from bench.scoring import generate, score

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

Encoded = tuple[tuple[str, str] | None, list[int], list[int]]
"""Texts of context and continuation, for the cache of responses, and their tokens."""


@register_model("ttt_bench")
class BenchLM(TemplateLM):
    """path: folder of a trained model (bench.pretrained), or the model. batch_size: sequences at once, which changes no score.

    max_length: tokens that a model reads at most, by default its training context. prefix_token: what stands before a text,
    by default what did in training, BOS or the end of the document before. dtype: what it computes in.

    Raises:
        ConfigError: an argument is not possible.
        NoDevice: there is no such device here.
        Whatever bench.pretrained.load_pretrained raises.
    """

    def __init__(
        self,
        path: str | Path | Pretrained,
        batch_size: int | str = 32,
        device: str = "cpu",
        dtype: str = "float32",
        max_length: int | None = None,
        prefix_token: int | None = None,
    ) -> None:
        super().__init__()
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise ConfigError(f"batch_size={batch_size} is not possible; give a number of sequences, 1 or more")
        if dtype not in DTYPES:
            raise ConfigError(f"dtype={dtype} is not possible; choose from: {', '.join(DTYPES)}")
        device_name(torch.device(device).type)
        self.model = path if isinstance(path, Pretrained) else load_pretrained(Path(path), DTYPES[dtype], device)
        self.batch_size, before = int(batch_size), self.model.tokenizer.bos
        self.prefix = next(token for token in (prefix_token, before, self.model.tokenizer.eos) if token is not None)
        self.max_length = max_length or self.model.train_context

    @property
    def eot_token_id(self) -> int:
        return self.model.tokenizer.eos

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        return self.model.tokenizer.encode(string).tolist()

    def loglikelihood_rolling(self, requests: "Sequence[Instance]", disable_tqdm: bool = False) -> list[float]:
        texts = [request.args[0] for request in requests]
        windows = [(index, pair) for index, text in enumerate(texts) for pair in self._windows(text)]
        sums = [0.0] * len(texts)
        for (index, _), (value, _) in zip(windows, self._loglikelihood_tokens([pair for _, pair in windows]), strict=True):
            sums[index] += value
        for text, value in zip(texts, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), value)
        return sums

    def _windows(self, text: str) -> list[Encoded]:
        rolling = utils.get_rolling_token_windows(self.tok_encode(text), self.prefix, self.max_length, context_len=1)
        return [(None, *utils.make_disjoint_window(pair)) for pair in rolling]

    def _loglikelihood_tokens(self, requests: Sequence[Encoded], **kwargs: Any) -> list[tuple[float, bool]]:
        pairs = [self._cut(context, continuation) for _, context, continuation in requests]
        scores = score(self.model.lm, pairs, self.batch_size)
        found = [(-float(one.nll.sum(dtype="float64")), one.is_greedy) for one in scores]
        for (texts, _, _), answer in zip(requests, found, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return found

    def _cut(self, context: list[int], continuation: list[int]) -> tuple[np.ndarray, np.ndarray]:
        room = self.max_length + 1 - len(continuation)
        if room < 1:
            raise ConfigError(f"a continuation has {len(continuation)} tokens; give max_length={len(continuation)} or more")
        return np.array(context[-room:]), np.array(continuation)

    def generate_until(self, requests: "Sequence[Instance]", disable_tqdm: bool = False) -> list[str]:
        """Greedy only.

        Raises:
            ConfigError: a task wants to sample.
        """
        options = [normalize_gen_kwargs(request.args[1], default_max_gen_toks=256) for request in requests]
        if any(option["do_sample"] for option in options):
            raise ConfigError("a task wants to sample (do_sample: true); only greedy generation is offered: do_sample=False")
        stops = [handle_stop_sequences(option["until"], eos=None) for option in options]
        most = [int(option["max_gen_toks"]) for option in options]
        contexts = [self._prompt(request.args[0], room) for request, room in zip(requests, most, strict=True)]

        def has_ended(index: int, tokens: Sequence[int]) -> bool:
            text = self._decode(tokens)
            return len(tokens) >= most[index] or tokens[-1] == self.eot_token_id or any(stop in text for stop in stops[index])

        written = generate(self.model.lm, contexts, max(most, default=0), has_ended, self.batch_size)
        texts = [
            postprocess_generated_text(self._decode(tokens), stop, None) for tokens, stop in zip(written, stops, strict=True)
        ]
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def _prompt(self, text: str, most: int) -> np.ndarray:
        room = self.max_length - most
        if room < 1:
            raise ConfigError(f"{most} tokens to generate leave no room for a prompt; give max_length={2 * most} or more")
        return np.array(self.tok_encode(text)[-room:] or [self.prefix])

    def _decode(self, tokens: Sequence[int]) -> str:
        ended = bool(tokens) and tokens[-1] == self.eot_token_id
        return self.model.tokenizer.decode(np.array(tokens[:-1] if ended else tokens, dtype=np.int64))
