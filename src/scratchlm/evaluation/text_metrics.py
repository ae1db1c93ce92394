"""How near generated texts come to the true ones: BLEU, ROUGE, exact matches; and how varied they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from statistics import fmean
from typing import Any, Literal, get_args

from scratchlm.errors import UserError
from scratchlm.evaluation.diversity import distinct
from scratchlm.ranges import check_choice

BleuTokenizer = Literal["13a", "intl", "char", "zh", "none"]
RougeTokenizer = Literal["alphanumeric", "spaces", "characters"]
_SPLITTERS: dict[str, Callable[[str], list[str]]] = {"spaces": str.split, "characters": lambda text: list(text)}


@dataclass(frozen=True)
class TextOptions:
    """How texts are cut into what is compared. The defaults are those of the libraries, so of most published figures.

    Raises:
        UserError: from ``__post_init__``: no such tokenizer.
    """

    bleu_tokenizer: BleuTokenizer = "13a"
    """sacrebleu's: "13a" (mteval's, for languages written with spaces), "intl" (by Unicode's classes), "zh" (Chinese),
    "char" (for languages without spaces), or "none" (tokens are between spaces already)."""
    lowercase: bool = False
    """Of BLEU: compare in lower case. ROUGE's "alphanumeric" always does."""
    rouge_tokenizer: RougeTokenizer = "alphanumeric"
    """rouge_score's own, "alphanumeric", knows a to z and 0 to 9 only; other letters need "spaces" or "characters"."""
    stemmer: bool = False
    """Of ROUGE's "alphanumeric": compare English words by their stems."""

    def __post_init__(self) -> None:
        for name, known in (("bleu_tokenizer", BleuTokenizer), ("rouge_tokenizer", RougeTokenizer)):
            check_choice(name, getattr(self, name), get_args(known))


def compare_texts(
    outputs: Sequence[str], references: Sequence[str], options: TextOptions | None = None
) -> dict[str, Any]:
    """Figures of outputs against one reference each, all shares from 0 to 1.

    Returns:
        ``bleu``: of the corpus (Papineni et al. 2002), where an n-gram precision of zero is smoothed as sacrebleu does
        ("exp", Chen and Cherry 2014, method 3); ``bleu_1`` to ``bleu_4``: the n-gram precisions, not smoothed;
        ``brevity_penalty``, and ``length_ratio`` of outputs to references;
        ``rouge_1``, ``rouge_2``, ``rouge_l``, ``rouge_lsum``: F1 (Lin 2004), the mean over the rows. Lsum takes lines
        for sentences;
        ``exact_match``: the share of outputs that are the reference but for spaces around it;
        ``distinct_1``, ``distinct_2``: of an output's words, the mean over the outputs that have so many;
        ``texts``: how many rows these are of; ``bleu_signature``: sacrebleu's settings and version.

    Raises:
        UserError: sacrebleu or rouge_score is not installed.
        ValueError: no rows, or another number of references.
    """
    if not outputs or len(outputs) != len(references):
        raise ValueError(f"{len(outputs)} outputs and {len(references)} references; give as many, at least one")
    options = TextOptions() if options is None else options
    return {
        **bleu(outputs, references, options),
        **rouge(outputs, references, options),
        "exact_match": fmean(a.strip() == b.strip() for a, b in zip(outputs, references, strict=True)),
        **{f"distinct_{n}": _mean_distinct(outputs, n) for n in (1, 2)},
        "texts": len(outputs),
    }


def bleu(outputs: Sequence[str], references: Sequence[str], options: TextOptions) -> dict[str, Any]:
    """The part of :func:`compare_texts` that is BLEU's."""
    metric = _needed("sacrebleu.metrics").BLEU(tokenize=options.bleu_tokenizer, lowercase=options.lowercase)
    score = metric.corpus_score(list(outputs), [list(references)])
    pairs = zip(score.counts, score.totals, strict=True)
    return {
        "bleu": score.score / 100,
        **{f"bleu_{n}": count / total if total else 0.0 for n, (count, total) in enumerate(pairs, 1)},
        "brevity_penalty": score.bp,
        "length_ratio": score.sys_len / score.ref_len if score.ref_len else 0.0,
        "bleu_signature": str(metric.get_signature()),
    }


def rouge(outputs: Sequence[str], references: Sequence[str], options: TextOptions) -> dict[str, Any]:
    """The part of :func:`compare_texts` that is ROUGE's."""
    names = {"rouge1": "rouge_1", "rouge2": "rouge_2", "rougeL": "rouge_l", "rougeLsum": "rouge_lsum"}
    splitter = _SPLITTERS.get(options.rouge_tokenizer)
    scorer = _needed("rouge_score.rouge_scorer").RougeScorer(
        list(names), use_stemmer=options.stemmer, tokenizer=None if splitter is None else _Splitting(splitter)
    )
    rows = [scorer.score(reference, output) for output, reference in zip(outputs, references, strict=True)]
    return {ours: fmean(row[theirs].fmeasure for row in rows) for theirs, ours in names.items()}


class _Splitting:
    """A tokenizer as rouge_score wants it."""

    def __init__(self, tokenize: Callable[[str], list[str]]) -> None:
        self.tokenize = tokenize


def _mean_distinct(outputs: Sequence[str], n: int) -> float:
    words = [units for output in outputs if len(units := output.split()) >= n]
    return fmean(distinct(units, n) for units in words) if words else 0.0


def _needed(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise UserError(f"{package} is not installed; run: pip install 'scratchlm[finetune]'") from None
