"""Judging passages anew: by an encoder that reads them with the query, by a language model's likelihood of the query,
word by word, or by the words of those that were found first.

Each has ``score(query, passages) -> list[float]``, one a passage and higher for a better one, on a scale of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from scratchlm.alignment.goals import Aligned, check_goal
from scratchlm.checkpoints.files import write_rows
from scratchlm.data.record_rows import Record
from scratchlm.errors import UserError
from scratchlm.generation.predict import Predictor
from scratchlm.models import Model
from scratchlm.opening import open_model
from scratchlm.retrieval.embeddings import Embedder
from scratchlm.retrieval.fusion import expansion
from scratchlm.retrieval.likelihood import Likelihood
from scratchlm.retrieval.memory_index import BM25
from scratchlm.retrieval.query_words import stems
from scratchlm.retrieval.search import Reranker
from scratchlm.tokenizers import Tokenizer
from scratchlm.training import Reporter, check_method, finetune
from scratchlm.training.question import Question

BETWEEN = "\n"
"""What stands between a query and a passage that are read together."""


class CrossEncoder:
    """A model that reads a query and a passage together and gives a reward (Nogueira and Cho 2019).

    Args:
        predictor: of the task "reward".
    """

    def __init__(self, predictor: Predictor) -> None:
        if predictor.task != "reward":
            raise ValueError(f"a re-ranker gives rewards, not {predictor.task}")
        self.predictor = predictor

    @classmethod
    def open(cls, name: str | Path, *, max_length: int | None = None, device: str = "cpu") -> CrossEncoder:
        """The re-ranker of a run that :func:`train_reranker` left.

        Raises:
            UserError: it cannot be opened, or gives no rewards.
        """
        opened = open_model(str(name), weights=False)
        if opened.config.head != "reward":
            raise UserError(f"{name} is no re-ranker; train one with: scratchlm align reward MODEL --data PAIRS")
        model = opened.model.to(device)
        return cls(Predictor(model, opened.tokenizer, max_length=max_length, name=str(name)))

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """The rewards. A passage that is too long is judged by its beginning.

        Raises:
            UserError: the query leaves no room for a passage.
        """
        tokenizer, most = self.predictor.tokenizer, self.predictor.max_length
        rows = [Record(prompt=query + BETWEEN, texts=(fit(query, text, tokenizer, most),)) for text in passages]
        told = self.predictor.rewards(rows)
        return [float("-inf") if one.reward is None else one.reward for one in told]


def fit(query: str, passage: str, tokenizer: Tokenizer, most: int) -> str:
    """The beginning of a passage that is read with a query in so many tokens. The encoding of a training would cut the
    query instead.

    Raises:
        UserError: the query leaves no room.
    """
    around = len(tokenizer.prefix_ids) + len(tokenizer.suffix_ids) + len(tokenizer.encode(query + BETWEEN))
    if around >= most:
        raise UserError(f"the query has {around:,} tokens, and the re-ranker reads {most:,} with a passage; shorten it")
    ids = tokenizer.encode(passage)
    while len(ids) > most - around:
        passage = passage[: int(len(passage) * min(0.97, (most - around) / len(ids)))]
        ids = tokenizer.encode(passage)
    return passage


def write_pairs(
    path: str | Path, pairs: Iterable[tuple[str, str, str]], tokenizer: Tokenizer, max_length: int = 256
) -> int:
    """Write what a re-ranker learns from: of each query a passage that answers it and one that does not. Those that a
    search finds and that do not answer teach most (hard negatives).

    Args:
        tokenizer: of the model that learns.
        max_length: tokens of a query with a passage, whose end is cut.

    Returns:
        How many pairs there are.

    Raises:
        UserError: there are none, a query leaves no room for a passage, or the file cannot be written.
    """
    rows = []
    for query, right, wrong in pairs:
        chosen, rejected = (fit(query, text, tokenizer, max_length) for text in (right, wrong))
        if chosen.strip() and rejected.strip() and chosen != rejected:
            rows.append({"prompt": query + BETWEEN, "chosen": chosen, "rejected": rejected})
    if not rows:
        raise UserError("there are no pairs to learn from; judge some passages as right and some as wrong")
    try:
        write_rows(Path(path), rows)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; choose another file") from error
    return len(rows)


def train_reranker(
    model: str,
    pairs: str | Path,
    out: str | Path,
    *,
    method: str = "full",
    validation: str | None = None,
    resume: bool = False,
    quiet: bool = True,
    **settings: Any,
) -> CrossEncoder:
    """Teach an encoder to tell right passages from wrong ones, by the loss of reward models, and leave a run folder.

    Args:
        model: such as ``all-minilm-l6-v2``.
        pairs: the file that :func:`write_pairs` wrote.
        settings: of the training, such as ``epochs=1`` or ``max_length=192``.

    Raises:
        UserError: as ``scratchlm align reward``, which does the same.
    """
    report = Reporter(quiet=quiet)
    goal = check_goal("reward")(report, settings, ())
    asked = Question(model, str(pairs), goal.rows, check_method(method), validation)
    finetune(asked, out, settings=settings, resume=resume, reporter=report, measure=Aligned(report), goal=goal)
    return CrossEncoder.open(out)


class LikelihoodReranker:
    """How likely a language model finds the query after a passage: the mean log-probability of the query's tokens
    (Ponte and Croft 1998; Sachan et al. 2022).

    Args:
        model: a decoder, put in evaluation mode.
        max_passage: tokens that are read of a passage.
        between: what stands between the passage and the query.

    Raises:
        UserError: the model gives no words.
    """

    def __init__(
        self, model: Model, tokenizer: Tokenizer, *, max_passage: int = 256, between: str = "\nQuestion: "
    ) -> None:
        self._likelihood = Likelihood(model, tokenizer)
        self.tokenizer, self.max_passage, self._between = tokenizer, max_passage, tokenizer.encode(between)

    @classmethod
    def open(cls, name: str | Path, **settings: Any) -> LikelihoodReranker:
        """Of a model by its name.

        Raises:
            UserError: it cannot be opened, or gives no words.
        """
        opened = open_model(str(name))
        return cls(opened.model, opened.tokenizer, **settings)

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """Mean log-probabilities, in nats.

        Raises:
            UserError: the query is too long for the model.
        """
        asked = self.tokenizer.encode(query)
        room = self._likelihood.room(self._between, asked)
        if not asked or room < 1:
            raise UserError(f"the query has {len(asked):,} tokens; the re-ranker reads from 1 to {room + len(asked):,}")
        most = min(self.max_passage, room)
        return self._likelihood.after(
            [[*self.tokenizer.encode(text)[:most], *self._between] for text in passages], asked
        )


class LateInteraction:
    """Each token of the query looks for the token of the passage that is most like it; the mean of those cosines
    (Khattab and Zaharia 2020), between the states of an encoder that need not have been trained for it.

    A token that few of the passages have weighs more, by its inverse document frequency among them: of a question
    these are the ones that tell passages apart.

    Args:
        weigh: whether rare tokens weigh more.
    """

    def __init__(self, embedder: Embedder, weigh: bool = True) -> None:
        self.embedder, self.weigh = embedder, weigh

    @torch.inference_mode()
    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """Weighted means of cosines."""
        (asked, sought), *found = self.embedder.token_states([query, *passages])
        sought = F.normalize(sought, dim=-1)
        weights = rarity(asked, [ids for ids, _ in found]) if self.weigh else torch.ones(len(asked))
        weights = weights / weights.sum()
        return [float((sought @ F.normalize(one, dim=-1).T).amax(1) @ weights) for _, one in found]


def rarity(asked: Sequence[int], found: Sequence[Sequence[int]]) -> Tensor:
    """(n,): the inverse document frequency of each token that is asked for, among passages."""
    has = [set(ids) for ids in found]
    counts = torch.tensor([sum(one in ids for ids in has) for one in asked])
    return torch.log1p((len(has) - counts + 0.5) / (counts + 0.5))


class WordFeedback:
    """The query's words, and those that the passages found first are likely to have (RM3: Abdul-Jaleel et al. 2004),
    looked for in all passages. It wants passages with the best first, as a search gives them.

    Words that many of the passages have count for less, so that no index is needed.

    Args:
        texts: so many passages count as found first.
        words: so many words are added.
        share: what the query's own words weigh, from 0 to 1.

    Raises:
        UserError: a value out of range.
    """

    def __init__(self, texts: int = 10, words: int = 40, share: float = 0.5) -> None:
        if texts < 1 or words < 1 or not 0 <= share <= 1:
            raise UserError(
                f"feedback of {texts} texts, {words} words and a share of {share}; give at least 1, 1, and 0 to 1"
            )
        self.texts, self.words, self.share = texts, words, share

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """Scores of BM25 with the words' weights."""
        found = [stems(text) for text in passages]
        index = BM25(found)
        first = [words for words in found[: self.texts] if words]
        likely = expansion(first, [1.0] * len(first), self.words, index.rarity)
        asked = stems(query)
        weights = {word: (1 - self.share) * weight for word, weight in likely.items()}
        for word in asked:
            weights[word] = weights.get(word, 0.0) + self.share / len(asked)
        return [float(score) for score in index.weighted_scores(weights)]


class Combined:
    """The weighted sum of several judgements, each with a mean of 0 and a standard deviation of 1 over the passages.

    Raises:
        UserError: another number of weights, or one that is no number.
    """

    def __init__(self, rerankers: Sequence[Reranker], weights: Sequence[float]) -> None:
        if len(rerankers) != len(weights) or not all(np.isfinite(weights)):
            raise UserError(f"there are {len(rerankers)} re-rankers and the weights {list(weights)}; give one each")
        self.rerankers, self.weights = list(rerankers), list(weights)

    def score(self, query: str, passages: Sequence[str]) -> list[float]:
        """The sums."""
        total = np.zeros(len(passages))
        if not len(passages):
            return []
        for one, weight in zip(self.rerankers, self.weights, strict=True):
            if weight:
                marks = np.array(one.score(query, passages))
                total += weight * (marks - marks.mean()) / (marks.std() or 1.0)
        return [float(mark) for mark in total]
