"""How likely a language model finds a text after others: of a query after passages, of a question after sentences.

Query likelihood ranks passages by it (Ponte and Croft 1998; Sachan et al. 2022). Less what a question is worth without
the sentence it is their pointwise mutual information: the mean over the question's tokens of log P(question | headings,
sentence) - log P(question | headings), in nats. Of SmolLM2-135M-Instruct this tells a little: in cross-validation 81 %
of the unanswerable questions are refused with it and 73 % without, at the same 13 % of the others. On held-out
documents that gain is not sure, as it refuses more of both (see :mod:`scratchlm.retrieval.calibration`). Whether the
model says "Yes" or "No" when it is asked whether the sentence answers tells nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from scratchlm.alignment.sequences import token_log_probabilities
from scratchlm.errors import UserError
from scratchlm.generation.states import StatePrecision, StateReader
from scratchlm.models import Decoder, Model
from scratchlm.retrieval.calibration import JUDGEMENT
from scratchlm.retrieval.evidence import Judged
from scratchlm.tokenizers import Tokenizer

_ASKED = "\nQuestion:"
MOST_SENTENCE = 200
"""Tokens that are read of a sentence."""


class Likelihood:
    """The mean log-probability of a text's tokens after each of some contexts.

    Args:
        model: a decoder, put in evaluation mode.
        tokenizer: of the model.
        precision: that it is read in on the CPU.

    Raises:
        UserError: the model gives no words.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer, precision: StatePrecision = "fp32") -> None:
        if not isinstance(model, Decoder) or model.config.head != "linear":
            raise UserError("likelihoods are a decoder's, such as smollm2-135m-instruct; give one")
        self.model, self.tokenizer = model, tokenizer
        self._start = [*tokenizer.prefix_ids] or [*tokenizer.eos_ids][:1]
        self._reader = StateReader(model, precision if model.embed.tokens.weight.device.type == "cpu" else "fp32")

    def room(self, *parts: Sequence[int]) -> int:
        """Tokens that the model reads beside these parts."""
        return self.model.config.context - len(self._start) - sum(map(len, parts))

    @torch.inference_mode()
    def after(self, contexts: Sequence[Sequence[int]], asked: Sequence[int]) -> list[float]:
        """For each context, ids, the mean log-probability of the tokens ``asked`` after it, in nats."""
        # The last token is never read: nothing follows it.
        rows = [[*self._start, *ids, *asked[:-1]] for ids in contexts]
        labels = torch.tensor(asked, device=self._reader.device)
        found = [0.0] * len(rows)
        for some in self._reader.batches([len(row) for row in rows]):
            for i, states in zip(some, self._reader.read([rows[i] for i in some]), strict=True):
                found[i] = float(token_log_probabilities(self.model, states[-len(asked) :], labels).mean())
        return found


class QuestionLikelihood:
    """Judges sentences by the likelihood of a question.

    Args:
        model: as :class:`Likelihood`; SmolLM2-135M-Instruct, which the coefficients were learned with.

    Raises:
        UserError: the model gives no words.
    """

    judgement, of_passages = JUDGEMENT, False

    def __init__(self, model: Model, tokenizer: Tokenizer, precision: StatePrecision = "int8") -> None:
        self._tokenizer, self._likelihood = tokenizer, Likelihood(model, tokenizer, precision)

    def gains(self, question: str, sentences: Sequence[Judged]) -> list[float]:
        """For each sentence below its headings: nats per token of the question.

        Raises:
            UserError: the question is too long for the model.
        """
        encode = self._tokenizer.encode
        asked, between = encode(" " + question), encode(_ASKED)
        room = self._likelihood.room(between, asked)
        if room < 1:
            raise UserError(
                f"the question has {len(asked):,} tokens; the model reads {room + len(asked):,}; ask shorter"
            )
        before = {one.headings: encode(one.headings + "\n") for one in sentences}
        contexts = [
            *before.values(),
            *(before[one.headings] + encode(one.sentence)[:MOST_SENTENCE] for one in sentences),
        ]
        found = self._likelihood.after([[*ids[-room:], *between] for ids in contexts], asked)
        alone = dict(zip(before, found, strict=False))
        return [value - alone[one.headings] for one, value in zip(sentences, found[len(before) :], strict=True)]
