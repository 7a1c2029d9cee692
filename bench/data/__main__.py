"""``python -m bench.data prepare|show DATA [KEY=VALUE…]``: a corpus of conf/data as tokens on disk, ahead of time.

``prepare`` makes what is not made yet and says what it is; ``show`` also decodes windows of it, for eyes to see. No torch here.
"""

import argparse
import sys

from bench.compose import compose_run
from bench.config import ConfigError, DataConfig
from bench.data import DataError
from bench.data.batches import TrainBatches
from bench.data.corpus import Corpus
from bench.data.prepare import Told, prepare
from bench.overrides import check_keys


def summary(corpus: Corpus, data: DataConfig) -> str:
    """What a corpus holds, a line for each split; how far held-out text occurs in training text; what it takes on disk."""
    index = corpus.index
    lines = [f"data={data.name} data.tokenizer={index.tokenizer}, {index.vocab:,} ids; data.content={index.content}"]
    for name, split in index.splits.items():
        if split.documents:
            rate = split.n_bytes / (split.tokens - split.documents * (1 if index.bos is None else 2))
            lines.append(
                f"{name:10}  {split.documents:9,} documents  {split.characters:13,} characters  {split.tokens:13,} tokens  "
                f"{rate:.3f} bytes a token  {len(split.shards)} shards"
            )
    worst, shares = max(index.overlap, key=lambda name: index.overlap[name]), index.overlap.values()
    lines.append(
        f"sentences of held-out documents in the training text: {sum(shares) / len(shares):.2%} on average, "
        f"{max(shares):.2%} of '{worst}' (data.max_overlap={data.max_overlap:.0%})"
    )
    size = sum(file.stat().st_size for file in corpus.folder.iterdir())
    return "\n".join([*lines, f"{corpus.folder}: {size / 2**20:,.1f} MiB"])


def windows(corpus: Corpus, count: int, length: int) -> str:
    """The first training windows of seed 0, and the begin of as many held-out documents, as text."""
    batches = TrainBatches(corpus.stream, length, seed=0)
    shown = [(f"training window {n}", tokens) for n, tokens in enumerate(batches.batch(0, count))]
    shown += [(f"held-out '{one.name}'", one.tokens[:length]) for one in corpus.documents("heldout")[:count]]
    return "\n".join(f"--- {what}\n{corpus.tokenizer.decode(tokens)}" for what, tokens in shown)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.data", description=__doc__)
    parser.add_argument("verb", choices=("prepare", "show"))
    parser.add_argument("data", help="a file of conf/data")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="data.path=FOLDER data.train=[…] …")
    parser.add_argument("--processes", type=int, help="to tokenise in; by default one a core")
    parser.add_argument("--windows", type=int, default=2, help="that show decodes, of training and held-out text each")
    parser.add_argument("--length", type=int, default=128, help="tokens of such a window")
    words = parser.parse_intermixed_args()
    try:
        check_keys(words.overrides)
        data = compose_run([f"data={words.data}", *words.overrides]).data
        corpus = prepare(data, processes=words.processes, progress=Told())
        print(summary(corpus, data))
        if words.verb == "show":
            print(windows(corpus, words.windows, words.length))
    except (ConfigError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
