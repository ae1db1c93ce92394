"""What was learned once: the coefficients of evidence and the threshold of refusal.

``python benchmarks/answer_quality.py --calibrate`` prints both again, from the questions in
``tests/retrieval/questions/calibration.txt``; ``held.txt`` beside it, which is of other documents, measures them.
"""

from __future__ import annotations

from scratchlm.retrieval.evidence import Weights

WEIGHTS = Weights(
    (
        11.766,  # headed
        5.868,  # alone
        -6.871,  # passage
        -3.070,  # names_missing
        -3.773,  # numbers_missing
        2.268,  # words
        8.537,  # words_headed
        0.612,  # kind_there
        -2.165,  # kind_missing
        -2.724,  # thing_far
        1.082,  # thing_asked
    ),
    -15.341,
)
THRESHOLD = 0.147
"""At it, of questions about documents left out in cross-validation, a tenth of the answerable are refused."""
