r"""Names, units and numbers of columns: what a file calls them, what this package calls them, and what follows from what.

Counting: `params` as in the source; $C=6ND$ where a table has two of `params` $N$, `tokens` $D$ and `flops` $C$.
"""

import difflib
import math
import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from foretrain.errors import InvalidInput, nearest

MEANINGS: dict[str, str] = {
    "params": "the number of parameters, counted as in the source",
    "params_no_embed": "the number of parameters without embeddings and the output layer",
    "tokens": "the number of training tokens seen",
    "tokens_per_epoch": "the number of different training tokens",
    "flops": "the floating-point operations of the whole training",
    "loss": "the loss in nats per token",
    "run": "the name of the run; rows of one run are resampled together",
    "width": "the size of the residual stream or of a hidden layer",
    "depth": "the number of layers or blocks",
    "heads": "the number of attention heads",
    "lr": "the (peak) learning rate",
    "batch": "the batch size, in a unit that the file does not say",
    "batch_tokens": "the batch size in tokens",
    "batch_seqs": "the batch size in sequences",
    "seq_len": "the number of tokens in a sequence",
    "steps": "the number of optimizer steps",
    "epochs": "the number of passes over the data",
    "weight_bits": "the bits of a weight during training",
    "activation_bits": "the bits of an activation during training",
    "kv_bits": "the bits of attention keys and values during training",
    "post_bits": "the bits to which weights are quantized after training",
    "loss_post": "the loss with weights quantized after training, in nats per token",
    "delta": "the loss that quantizing weights after training adds, in nats per token",
    "group_size": "the number of weights or activations that share a scale",
    "seed": "the random seed",
}

# Lower case, with every run of spaces, dots, dashes and slashes made one underscore.
_ALIASES: dict[str, tuple[str, ...]] = {
    "params": (
        "n", "param", "n_params", "num_params", "nparams", "parameters", "n_parameters", "num_parameters", "param_count", "params_count",
        "parameter_count", "total_params", "model_params", "model_size", "number_of_parameters", "model_parameters",
    ),
    "params_no_embed": (
        "params_no_emb", "non_embedding_params", "n_params_non_embedding", "params_non_embedding", "non_embedding_parameters",
        "num_non_embedding_params", "n_non_embedding", "params_without_embedding",
    ),
    "tokens": (
        "d", "token", "n_tokens", "num_tokens", "n_toks", "toks", "ntokens", "token_count", "tokens_seen", "total_tokens", "train_tokens",
        "training_tokens", "consumed_tokens", "num_train_tokens", "dataset_tokens", "data_tokens", "number_of_tokens",
    ),
    "tokens_per_epoch": ("unique_tokens", "n_unique_tokens", "num_unique_tokens", "tokens_unique", "unique_data"),
    "flops": (
        "c", "flop", "compute", "total_flops", "train_flops", "training_flops", "training_flop", "compute_flops", "n_flops", "num_flops",
        "training_compute", "budget", "compute_budget",
    ),
    "loss": (
        "l", "train_loss", "training_loss", "final_loss", "val_loss", "valid_loss", "validation_loss", "eval_loss", "test_loss", "ce_loss",
        "cross_entropy", "cross_entropy_loss", "lm_loss", "final_train_loss", "final_val_loss", "best_loss", "loss_nats", "nll", "train_ce",
    ),
    "run": ("run_name", "run_id", "name", "experiment", "exp_name", "experiment_name", "run_uuid", "id"),
    "width": ("d_model", "hidden_size", "hidden_dim", "n_embd", "model_dim", "embed_dim", "dim_model"),
    "depth": ("layers", "n_layers", "n_layer", "num_layers", "num_hidden_layers", "n_blocks", "num_blocks"),
    "heads": ("n_heads", "n_head", "num_heads", "num_attention_heads", "attention_heads"),
    "lr": ("learning_rate", "learningrate", "peak_lr", "max_lr", "base_lr", "peak_learning_rate", "eta"),
    "batch": ("batch_size", "batchsize", "global_batch_size", "bs"),
    "batch_tokens": ("tokens_per_batch", "tokens_per_step", "batch_size_tokens", "batch_size_in_tokens", "global_batch_tokens"),
    "batch_seqs": ("global_batch_seqs", "batch_size_seqs", "seqs_per_batch", "sequences_per_batch"),
    "seq_len": ("sequence_length", "seq_length", "context_length", "block_size", "max_seq_len", "ctx_len", "n_ctx"),
    "steps": ("step", "_step", "global_step", "n_steps", "num_steps", "train_steps", "training_steps", "iterations", "iters", "max_steps"),
    "epochs": ("epoch", "n_epochs", "num_epochs", "repetitions"),
    "weight_bits": ("w_bits", "bits_weights", "bits_w", "weights_bits", "p_w", "pw", "bits_weight", "wbits"),
    "activation_bits": ("a_bits", "act_bits", "bits_activations", "bits_a", "p_a", "pa", "abits", "bits_activation"),
    "kv_bits": ("bits_kv", "p_kv", "pkv", "kvbits"),
    "post_bits": ("bits_post", "ptq_bits", "p_post", "ppost", "bits_ptq", "post_training_bits"),
    "seed": ("random_seed", "rng_seed"),
}  # fmt: skip
_CANONICAL = {alias: name for name, aliases in _ALIASES.items() for alias in aliases}
_PREFIXES = ("config_", "params_", "metrics_", "summary_", "hparams_", "args_", "summary_metrics_")

_COUNTS = ("params", "params_no_embed", "tokens", "tokens_per_epoch", "flops", "batch_tokens")
_MISSING = frozenset(("", "nan", "na", "n/a", "null", "none", "-", "--", "?", "missing", "#n/a"))

_SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "bn": 1e9, "t": 1e12, "p": 1e15, "e": 1e18, "z": 1e21}
_NUMBER = re.compile(r"([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([a-zA-Z]{0,2})")
_LONGEST = 64  # characters of a number; longer text is none

_BRACKETED = re.compile(r"^(.+?)\s*[\(\[]\s*(?:in\s+)?([^\(\)\[\]]+?)\s*[\)\]]$")
_WORDED = re.compile(r"^(.+?)[\s_]+(?:in[\s_]+)?(thousands?|millions?|billions?|trillions?|bits|nats)$", re.IGNORECASE)
_LETTERED = re.compile(r"^(.+?)[_/ ]([KMBGT])$")
_UNITS = {"thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "mn": 1e6, **_SUFFIXES}
_FLOP_UNITS = {
    "gflop": 1e9,
    "tflop": 1e12,
    "pflop": 1e15,
    "eflop": 1e18,
    "zflop": 1e21,
    "pf_day": 8.64e19,
    "pflop_s_day": 8.64e19,
}
_FLOP_UNITS |= {"pfday": 8.64e19, "petaflop_day": 8.64e19, "pflop_day": 8.64e19, "petaflop_s_day": 8.64e19}
_FACTOR = re.compile(r"^(.+?)\s*\*\s*([^*]+)$")


class Named(NamedTuple):
    """Which column of a file becomes which column here, and by which factor its numbers are multiplied."""

    file: str
    name: str
    factor: float = 1.0
    stated: bool = False
    note: str = ""


def parse_number(text: str) -> float | None:
    """A number that may have a suffix (`70M`, `1.4B`, `300G`) or underscores; NaN for a missing value, None for other text.

    Nothing is evaluated: a formula is text.
    """
    stripped = text.strip()
    if stripped.lower() in _MISSING:
        return math.nan
    if len(stripped) > _LONGEST:
        return None
    try:
        return float(stripped)
    except ValueError:
        pass
    found = _NUMBER.fullmatch(stripped)
    if not found or found[2].lower() not in {"", *_SUFFIXES}:
        return None
    try:
        return float(found[1]) * _SUFFIXES.get(found[2].lower(), 1.0)
    except ValueError:
        return None


def is_missing(text: str) -> bool:
    """Whether a cell says that there is no value."""
    return text.strip().lower() in _MISSING


def simplified(name: str) -> str:
    """A name in lower case, with underscores for all that separates words."""
    return re.sub(r"[\s.\-/]+", "_", name.strip().lower())


def losses_among(names: Iterable[str]) -> list[str]:
    """Names that may well be losses, for a message that asks which one it is."""
    return [n for n in names if "loss" in n.lower() or simplified(n) in _ALIASES["loss"]]


def name_columns(
    names: tuple[str, ...],
    columns: Mapping[str, str] | None = None,
    loss: str | None = None,
    text: Collection[str] = (),
) -> tuple[list[Named], list[str]]:
    """What each column of a file is called here.

    Args:
        names: Columns of the file.
        columns: Name here to column of the file, which may carry a factor (`"N*1e6"`). These are not doubted.
        loss: Column of the file that is the loss; short for `columns={"loss": …}`.
        text: Columns that hold words, which cannot be an amount under another name.

    Returns:
        One entry for each column of the result, and notes.

    Raises:
        InvalidInput: A column that the file has not, or a contradiction.
    """
    given = _given(names, dict(columns or {}), loss)
    taken, notes = {n.name for n in given}, [n.note for n in given if n.note]
    used = {n.file for n in given}
    free = [n for n in names if n not in used]
    found: dict[str, Named] = {}
    for tier in (_exact, _by_case, _by_alias):
        offers: dict[str, list[Named]] = {}
        for name in free:
            offer = tier(name)
            if offer and tier is not _exact and name in text and offer.name != "run":
                continue
            if offer and offer.name not in taken and offer.name not in found:
                offers.setdefault(offer.name, []).append(offer)
        for canonical, offered in offers.items():
            if len(offered) == 1:
                found[canonical] = offered[0]
            elif tier is not _exact:
                files = [o.file for o in offered]
                taken.add(canonical)  # a lower tier must not decide what is ambiguous here
                notes.append(
                    f"{', '.join(files)} could each be {canonical}; none is taken. Say which with columns {canonical}={files[0]}"
                )
    found = _without_lone_letters(found, taken)
    by_file = {n.file: n for n in found.values()}
    result = list(given)
    for name in free:
        named = by_file.get(name) or Named(name, name)
        if named.file == named.name and named.name in taken and named.name in {g.name for g in given}:
            named = Named(name, f"{name}_in_file", note=f"{name} of the file is kept as {name}_in_file")
        result.append(named)
        if named.note:
            notes.append(named.note)
    if "loss" not in {n.name for n in result} and (candidates := losses_among(names)):
        notes.append(
            f"no column is the loss; it could be {', '.join(candidates[:8])}. Say which one: loss={candidates[0]}"
        )
    return result, notes


def _given(names: tuple[str, ...], columns: dict[str, str], loss: str | None) -> list[Named]:
    if loss is not None:
        if columns.get("loss", loss) != loss:
            raise InvalidInput(
                f"read_runs: loss={loss!r} and columns loss={columns['loss']!r} contradict each other; give one of them."
            )
        columns["loss"] = loss
    given = []
    for target, wanted in columns.items():
        name, source, factor = str(target).strip(), str(wanted).strip(), 1.0
        stated = False
        if source not in names and (found := _FACTOR.match(source)):
            number = parse_number(found[2])
            if number is None or not 0 < number < math.inf:
                raise InvalidInput(
                    f"read_runs(columns={name}={source}): expected a column, or column*factor such as N*1e6, got {source!r}."
                )
            source, factor, stated = found[1], number, True
        if source not in names:
            shown = ", ".join(names[:16]) + (f" and {len(names) - 16} more" if len(names) > 16 else "")
            raise InvalidInput(
                f"read_runs(columns={name}={source}): the file has no column {source!r}{nearest(source, names)}; it has {shown}."
            )
        close = difflib.get_close_matches(name, MEANINGS, n=1, cutoff=0.8)
        if not name or (name not in MEANINGS and name not in names and close):
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise InvalidInput(f"read_runs(columns={name}={source}): {name!r} is no name of a column here{hint}")
        times = f", times {factor:g}" if factor != 1.0 else ""
        note = f"{name} is {source}{times}, as told" if source != name or times else ""
        given.append(Named(source, name, factor, stated, note))
    return given


def _exact(name: str) -> Named | None:
    return Named(name, name) if name in MEANINGS else None


def _by_case(name: str) -> Named | None:
    plain = simplified(name)
    return Named(name, plain, note=f"{plain} is {name}") if plain in MEANINGS else None


def _by_alias(name: str) -> Named | None:
    """The meaning of a name by the table of aliases, a prefix such as `config.`, or a unit in the header."""
    if canonical := _meaning(name):
        return Named(name, canonical, note=f"{canonical} is {name}")
    if factor := _flop_factor(name):
        return Named(name, "flops", factor, True, f"flops is {name}, times {factor:g}")
    for pattern in (_BRACKETED, _WORDED, _LETTERED):
        found = pattern.match(name.strip())
        canonical = _meaning(found[1]) if found else None
        if not found or not canonical:
            continue
        unit = simplified(found[2])
        factor = _UNITS.get(unit) or _UNITS.get(unit.removesuffix("s")) if canonical in _COUNTS else None
        if canonical == "flops":
            factor = factor or _flop_factor(found[2])
        if canonical == "loss":
            factor = math.log(2.0) if unit in ("bit", "bits", "bits_per_token", "bits_token") else None
            factor = 1.0 if unit in ("nat", "nats", "nats_per_token", "nats_token") else factor
        if factor:
            return Named(name, canonical, factor, True, f"{canonical} is {name}, times {factor:.6g}")
    return None


def _flop_factor(words: str) -> float | None:
    plain = simplified(words)
    return _FLOP_UNITS.get(plain) or _FLOP_UNITS.get(plain.removesuffix("s"))


def _meaning(name: str) -> str | None:
    plain = simplified(name)
    for candidate in (plain, *(plain.removeprefix(p) for p in _PREFIXES if plain.startswith(p))):
        if candidate in MEANINGS:
            return candidate
        if candidate in _CANONICAL:
            return _CANONICAL[candidate]
    return None


def _without_lone_letters(found: dict[str, Named], taken: set[str]) -> dict[str, Named]:
    """N, D, C, L mean params, tokens, FLOP and loss only beside another one of these four; in lower case, beside another letter."""
    four = {"params", "tokens", "flops", "loss"}
    letters = {name for name, n in found.items() if name in four and len(n.file.strip()) == 1}
    doubted = {name for name in letters if found[name].file.strip().islower() and len(letters) < 2}
    if len(four & (found.keys() | taken)) < 2:
        doubted = letters
    return {name: n for name, n in found.items() if name not in doubted}
