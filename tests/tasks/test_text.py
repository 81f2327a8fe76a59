"""Text as tokens: what a token is, where the held-out part begins, and what is wrong with files."""

import numpy as np
import pytest

from foretrain import Problem, Text, Transformer
from foretrain.errors import InvalidInput, MissingData, TooLarge
from foretrain.problems import NetworkTraining
from foretrain.studies import parse_study
from foretrain.tasks import AbstractTokenTask, Tokens

WORDS = "the cat sat on the mat; " * 40 + "à la carte: Ω, æ, 漢字 and 🎉"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text(WORDS, encoding="utf-8")
    return path


class TestFiles:
    def test_bytes_are_those_of_the_file(self, file):
        tokens = Text(path=file, context=8).load()
        content = file.read_bytes()
        assert bytes(np.concatenate([tokens.train, tokens.test]).astype(np.uint8)) == content
        assert (tokens.name, tokens.vocabulary, tokens.context) == ("words", 256, 8)
        assert tokens.train.dtype == tokens.test.dtype == np.int32

    @pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
    @pytest.mark.parametrize("tokenizer", ["byte", "char"])
    def test_held_out_part_is_the_last_fraction(self, file, fraction, tokenizer):
        tokens = Text(path=file, context=8, test_fraction=fraction, tokenizer=tokenizer).load()
        whole = len(WORDS) if tokenizer == "char" else len(WORDS.encode())
        assert len(tokens.test) == round(fraction * whole)
        assert len(tokens.train) == whole - len(tokens.test)

    def test_characters_are_numbered_by_code_point(self, file):
        tokens = Text(path=file, context=8, tokenizer="char", test_fraction=0.1).load()
        cut = len(WORDS) - round(0.1 * len(WORDS))
        known = sorted(set(WORDS[:cut]))
        assert tokens.vocabulary == len(known) + 1
        assert "".join(known[k] for k in tokens.train) == WORDS[:cut]

    def test_characters_that_training_never_saw_share_a_token(self, file):
        tokens = Text(path=file, context=8, tokenizer="char", test_fraction=0.1).load()
        cut = len(WORDS) - round(0.1 * len(WORDS))
        unknown = np.array([character not in set(WORDS[:cut]) for character in WORDS[cut:]])
        assert unknown.sum() >= 5
        np.testing.assert_array_equal(tokens.test == tokens.vocabulary - 1, unknown)
        assert tokens.train.max() < tokens.vocabulary - 1

    def test_a_byte_order_mark_is_no_text(self, file, tmp_path):
        marked = tmp_path / "marked.txt"
        marked.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
        assert Text(path=marked) == Text(path=file)

    def test_a_file_counts_by_its_content(self, file, tmp_path):
        other = tmp_path / "other.txt"
        other.write_text(WORDS, encoding="utf-8")
        assert Text(path=file) == Text(path=other)
        before = Text(path=file).digest()
        file.write_text(WORDS.replace("cat", "dog"), encoding="utf-8")
        assert Text(path=file).digest() != before

    @pytest.mark.parametrize("change", [{"tokenizer": "char"}, {"context": 7}, {"test_fraction": 0.2}])
    def test_every_field_counts(self, file, change):
        assert Text(path=file, **change) != Text(path=file)


class TestStandardLibrary:
    def test_is_the_same_at_every_call_and_another_for_every_seed(self):
        first, again, other = Text().load(), Text().load(), Text(seed=1).load()
        np.testing.assert_array_equal(first.train, again.train)
        assert not np.array_equal(first.train, other.train)
        assert Text() == Text(seed=0) != Text(seed=1)

    def test_holds_whole_modules(self):
        """The source of one module stands in the text as it stands on the disk."""
        import sysconfig
        from pathlib import Path

        tokens = Text().load()
        content = bytes(np.concatenate([tokens.train, tokens.test]).astype(np.uint8))
        sources = [f.read_bytes() for f in Path(sysconfig.get_paths()["stdlib"]).glob("*.py")]
        assert sum(source in content for source in sources) > len(sources) / 2
        assert len(content) <= 4_000_000

    def test_characters_of_the_cut_are_whole(self):
        assert Text(tokenizer="char").load().vocabulary > 90  # raises if the cut had split one

    def test_a_python_without_sources(self, monkeypatch, tmp_path):
        from foretrain.tasks import _text

        monkeypatch.setattr(_text.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
        with pytest.raises(MissingData, match=r"no sources of the standard library in .*; give `path` a text file"):
            _text.standard_library.__wrapped__(0)


class TestMistakes:
    def test_no_such_file(self, tmp_path):
        with pytest.raises(MissingData, match=r"text: no file .*nothing.txt; give `path` relative to the study file"):
            Text(path=tmp_path / "nothing.txt").load()

    def test_a_folder(self, tmp_path):
        with pytest.raises(MissingData, match="text: no file"):
            Text(path=tmp_path).load()

    def test_empty(self, tmp_path):
        (tmp_path / "empty.txt").write_bytes(b"")
        with pytest.raises(InvalidInput, match="expected text, got an empty file"):
            Text(path=tmp_path / "empty.txt").load()

    @pytest.mark.parametrize("tokenizer", ["byte", "char"])
    def test_no_text(self, tmp_path, tokenizer):
        (tmp_path / "image.png").write_bytes(b"abc\x89PNG" * 100)
        with pytest.raises(InvalidInput, match="expected text in UTF-8, got byte 0x89 at position 3"):
            Text(path=tmp_path / "image.png", tokenizer=tokenizer).load()

    @pytest.mark.parametrize(
        ("length", "fraction", "words"),
        [
            (100, 0.1, "the held-out part has 10 of the text's 100 tokens; expected at least context [+] 1 = 17"),
            (100, 0.9, "the training part has 10 of the text's 100 tokens"),
            (1, 0.5, "the training part has 0 of the text's 1 tokens"),
        ],
    )
    def test_too_short_for_the_context(self, tmp_path, length, fraction, words):
        (tmp_path / "short.txt").write_text("x" * length)
        with pytest.raises(InvalidInput, match=words):
            Text(path=tmp_path / "short.txt", context=16, test_fraction=fraction).load()

    def test_one_window_in_each_part_is_enough(self, tmp_path):
        (tmp_path / "short.txt").write_text("x" * 34)
        tokens = Text(path=tmp_path / "short.txt", context=16, test_fraction=0.5).load()
        assert len(tokens.train) == len(tokens.test) == 17

    def test_larger_than_memory_should_hold(self, file, monkeypatch):
        from foretrain.tasks import _text

        monkeypatch.setattr(_text, "_LARGEST_FILE", 100)
        with pytest.raises(TooLarge, match="expected at most 1 GiB"):
            Text(path=file).load()

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"tokenizer": "bpe"}, "tokenizer: expected one of 'byte', 'char', got 'bpe'"),
            ({"context": 0}, "context: expected a whole number >= 1, got 0"),
            ({"test_fraction": 1.0}, "test_fraction: expected a number > 0 and < 1"),
            ({"test_fraction": 0.0}, "test_fraction: expected a number > 0 and < 1"),
            ({"path": "a.txt", "seed": 1}, "seed: orders the standard library's modules"),
        ],
    )
    def test_fields(self, fields, words):
        with pytest.raises(InvalidInput, match=words):
            Text(**fields)

    @pytest.mark.parametrize(
        ("train", "words"),
        [
            (np.zeros((3, 3), int), r"Tokens\(train\): expected a sequence of whole numbers, got shape \(3, 3\)"),
            (np.zeros(9), "got shape .9,., dtype float64"),
            (np.array([0, 1, 5, 1]), r"expected tokens in 0\.\.4, got 5"),
            (np.array([0, -1, 1, 1]), r"expected tokens in 0\.\.4, got -1"),
            (np.array([0, 1]), r"expected at least context \+ 1 = 3 tokens, got 2"),
        ],
    )
    def test_tokens(self, train, words):
        with pytest.raises(InvalidInput, match=words):
            Tokens("t", train, np.arange(5), vocabulary=5, context=2)

    def test_tokens_are_read_only(self):
        with pytest.raises(ValueError, match="read-only"):
            Tokens("t", np.arange(5), np.arange(5), vocabulary=5, context=2).train[0] = 1


def test_a_study_file_names_it_relative_to_itself(file):
    study = parse_study(
        """
        [task]
        kind = "text"
        path = "words.txt"
        context = 16
        [model]
        kind = "transformer"
        width = 32
        [training]
        optimizer = "adam"
        learning_rate = 0.01
        times = [1, 10]
        """,
        folder=file.parent,
    )
    assert isinstance(study.problem.task, AbstractTokenTask)
    assert study.problem == Problem(
        Text(path=file, context=16), Transformer(width=32), NetworkTraining(0.01, optimizer="adam")
    )
