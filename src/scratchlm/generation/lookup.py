"""What a text has had before: guesses at its next tokens, and the beginning that two texts share."""

from __future__ import annotations

from collections.abc import Sequence

from scratchlm.generation.request import Ticket

LONGEST_MATCH, SHORTEST_MATCH = 4, 2


def propose(tokens: Sequence[int], most: int) -> list[int]:
    """At most ``most`` tokens that followed the latest earlier place that reads as the end of ``tokens`` does (prompt
    lookup; Saxena 2023).

    The longest match of 4 down to 2 tokens counts. [] where there is none.
    """
    end = len(tokens)
    for length in range(min(LONGEST_MATCH, end - 1), SHORTEST_MATCH - 1, -1):
        last = list(tokens[end - length :])
        for start in range(end - length - 1, -1, -1):
            if tokens[start] == last[0] and tokens[start : start + length] == last:
                return list(tokens[start + length : start + length + most])
    return []


def guess(text: Ticket, context: int) -> list[int]:
    """Guesses at a text's next tokens, as many as were asked for, fit the context, and may come."""
    request = text.request
    room = min(request.speculate, context - len(text.window), text.left - 1)
    # A penalty makes each choice depend on the one before it, which a pass over guesses cannot know.
    if room <= 0 or request.sampling.penalises:
        return []
    guesses = propose(text.window, room)
    return guesses if request.constraint is None else guesses[: request.constraint.allows(guesses)]


def common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two sequences have in common from their start."""
    length = min(len(first), len(second))
    if first[:length] == second[:length]:
        return length
    low, high = 0, length  # the longest common beginning lies in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle
    return low
