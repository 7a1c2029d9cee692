"""Files that are not what they claim: refused with a reason, and nothing of theirs is run, nor any memory taken for a claim."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.checkpoints import read
from models.checkpoints.config import CheckpointError
from models.checkpoints.files import read_json, read_saved, read_tensors
from models.tests.streaming import packed, pair

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4)}


class Evil:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))], ids=["torch", "pickle"]
)
def test_code_in_a_file_is_not_run(save: Callable[[Any, Path], Any], tmp_path: Path) -> None:
    ran, path = tmp_path / "ran", tmp_path / "pytorch_model.bin"
    save({"a": Evil(ran)}, path)
    with pytest.raises(CheckpointError, match=r"code that would run \(.*\)$|a plain pickle is not read"):
        read_tensors(tmp_path)
    assert not ran.exists()
    path.rename(tmp_path / "streaming_train_state")
    with pytest.raises(CheckpointError, match="does not begin as one"):
        read(tmp_path / "streaming_train_state")
    assert not ran.exists()


def test_tensors_of_torch_save_are_read_whatever_the_file_is_called(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "model.pt")
    found = read_tensors(tmp_path)
    assert found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)
    torch.save({"model": TENSORS}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="no tensors by name alone"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("cut", [0.0, 0.01, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_truncated_file_is_refused(name: str, cut: float, tmp_path: Path) -> None:
    path = tmp_path / name
    (save_file if name.endswith("s") else torch.save)(TENSORS, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_tensors(tmp_path)


def test_a_damaged_tensor_of_torch_save_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    torch.save({"a": torch.full((999,), 7.0)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<2f", 7, 7)) + 40] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="is damaged"):
        read_saved(path)


@pytest.mark.parametrize(
    "content", [b"no weights", b"\xff" * 64, struct.pack("<Q", 2**40) + b"{}", struct.pack("<Q", 2) + b"[]"]
)
def test_what_is_no_safetensors_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[1]", "[" * 100_000, "\x00"])
def test_what_is_no_json_object_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json (cannot be read|is not a JSON object)"):
        read_json(tmp_path / "config.json")


def shards(folder: Path, suffix: str = ".safetensors", **where: Any) -> Path:
    """Two shards of TENSORS, and their index, with ``where`` put over it."""
    save: Callable[[Any, Path], Any] = save_file if suffix == ".safetensors" else torch.save
    stem = {".safetensors": "model", ".bin": "pytorch_model"}[suffix]
    names = {name: f"{stem}-{name}{suffix}" for name in TENSORS}
    for name, file in names.items():
        save({name: TENSORS[name]}, folder / file)
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names | where}))
    return folder


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_are_read_together(suffix: str, tmp_path: Path) -> None:
    found = read_tensors(shards(tmp_path, suffix))
    assert found.keys() == TENSORS.keys() and all(torch.equal(found[name], TENSORS[name]) for name in TENSORS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../out.safetensors", r"names '\.\./out\.safetensors'; a shard is a \.safetensors file beside it"),
        ("/etc/hostname", "names '/etc/hostname'"),
        ("..", r"names '\.\.'"),
        ("", "names ''"),
        ("in/model.safetensors", "names 'in/model"),
        ("model.bin", r"names 'model\.bin'"),
        (7, "no weight_map"),
        (["x"], "no weight_map"),
        ("model-none.safetensors", "cannot be read as safetensors .*No such file"),
        ("model-b.safetensors", "names tensors that its files lack: c"),
    ],
)
def test_an_index_names_files_beside_it_alone(name: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    save_file(TENSORS, tmp_path / "out.safetensors")
    with pytest.raises(CheckpointError, match=message):
        read_tensors(shards(tmp_path / "folder", c=name))


def test_a_folder_without_weights_or_with_too_many_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="it holds none"):
        read_tensors(tmp_path)
    for name in ("x.pt", "y.safetensors"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"it holds x\.pt, y\.safetensors"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("name", ["there", "file.safetensors", "metadata.pkl"])
def test_what_is_no_checkpoint_says_what_is(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no"):
        read(tmp_path / "none")
    (tmp_path / "there").mkdir()
    save_file(TENSORS, tmp_path / "file.safetensors")
    (tmp_path / "metadata.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(CheckpointError, match=r"is no (checkpoint; that is a folder with config\.json|streaming checkpoint)"):
        read(tmp_path / name)


def ours(folder: Path, **changes: Any) -> Path:
    """A folder of our own format, with another config."""
    config = {
        "format": "ttt-bench",
        "version": 1,
        "vocab": 4,
        "size": {"width": 4, "layers": 1, "heads": 1, "ffn": 4},
        "layer": [{"_target_": "models.layers.SwiGLU"}],
        "tied": True,
        "eps": 1e-6,
    } | changes
    (folder / "config.json").write_text(json.dumps(config))
    save_file(TENSORS, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    "target", ["os.system", "models.lm.LM", "models.checkpoints.read", "models.tests.x.Y", "bench.run.execute", 7, None]
)
def test_a_config_names_no_other_code_than_mixers(target: object, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"names a layer '{target}', which is no mixer"):
        read(ours(tmp_path, layer=[{"_target_": target, "command": "true"}]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version 2; supported: 1"),
        ({"size": {"width": 4}}, "lacks layers, heads, ffn"),
        ({"size": [4]}, r"size \[4\], which must be an object"),
        ({"layer": []}, "no list of branches"),
        ({"layer": ["models.layers.SwiGLU"]}, "no list of branches"),
        ({"layer": [{"_target_": "models.layers.SwiGLU", "more": 1}]}, "makes no model .*more"),
        ({"layer": [{"_target_": "models.mamba.Mamba", "expand": {"_target_": "os.system"}}]}, "makes no model"),
        ({"layer": [{"_target_": "models.mamba.Mamba", "d_state": 2**62}]}, "makes no model"),
        ({"tokenizer": "../tokenizer.json"}, "must be a name"),
        ({"tokenizer": 3}, "tokenizer 3, which must be a string"),
        ({}, r"missing branches\.0\.mixer\.down\.weight"),
    ],
)
def test_a_config_of_ours_that_makes_no_model_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        read(ours(tmp_path, **changes))


GOOD = pair(("params", "params", "model", "wte", "embedding"), packed(np.ones((4, 2))))


def array(shape: Any, dtype: Any, data: Any) -> bytes:
    """A pair whose array claims what it likes."""
    return pair(("model", "x"), msgpack.packb(msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin as one"),
        (b"no weights", "does not begin as one"),
        (pickle.dumps({"params": 1}), "does not begin as one"),
        (GOOD[:-1], "is truncated: what begins at byte 0 of"),
        (GOOD + GOOD[:20], f"is truncated: what begins at byte {len(GOOD)} of"),
        (GOOD + b"\xc1", "is damaged after byte"),
        (GOOD + b"\xdd\xff\xff\xff\xff", "is damaged after byte .*4294967295"),  # an array of 2^32 - 1
        (GOOD + b"\xdf\xff\xff\xff\xff", "is damaged after byte .*4294967295"),  # a map
        (GOOD + b"\x92\x91\xa1a\xc6\xff\xff\xff\xff", "is truncated"),  # bytes
        (GOOD + b"\x91" * 2000, "is damaged after byte"),  # ever deeper
        (GOOD + msgpack.packb(3), "something else than pairs"),
        (GOOD + msgpack.packb(((1,), b"")), "something else than pairs"),
        (GOOD + msgpack.packb((("a",), "text")), "something else than pairs"),
        (2 * GOOD, "holds model/wte/embedding twice"),
        (pair(("step",), packed(np.array(7), "int32", code=3)), "holds no parameters"),
        (GOOD, "no TTT model .* model/h/0/seq_modeling_block/learnable_ttt_lr/kernel, of 3 axes there, is missing"),
        (pair(("model", "x"), packed(np.ones(2), code=3)), "extension 3"),
        (pair(("model", "x"), b"text"), "no array of floats"),
        (pair(("model", "x"), msgpack.packb({"__msgpack_chunked_array__": True})), "cuts into pieces"),
        (array([2], "bfloat16", b"123"), r"no whole array: extension 1, bfloat16 \[2\], 3 bytes"),
        (array([2**62, 2**62], "bfloat16", b"1234"), "no whole array"),
        (array([-1, -2], "bfloat16", b"1234"), "no whole array"),
        (array([2], "object", b"1234"), "no array of floats .'object'"),
        (array("22", "bfloat16", b"1234"), "no array of floats"),
        (array([2.0], "bfloat16", b"1234"), "no array of floats"),
        (array([], "bfloat16", b""), "no array|no whole array"),
        (array([2], ["bfloat16"], b"1234"), "no array of floats"),
    ],
)
def test_a_streaming_file_that_is_none_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "streaming_params"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read(path)
