"""``scratchlm generate``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from scratchlm.cli.output import Json, Run, print_json


def generate(
    run: Run,
    prompt: Annotated[str, typer.Option(help="The text to go on from; of an encoder-decoder, the text to answer.")],
    max_new_tokens: Annotated[int, typer.Option(help="At most so many tokens more.")] = 200,
    temperature: Annotated[
        float | None,
        typer.Option(help="Below 1 bolder in what is likely, above 1 flatter, 0 greedy.", show_default="0.8"),
    ] = None,
    top_k: Annotated[int, typer.Option(help="Only the k likeliest tokens; 0 for all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Only the likeliest tokens that together have this probability.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Only tokens with this share of the best one's probability.")] = 0.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 makes what was said less likely.")] = 1.0,
    stop: Annotated[
        list[str] | None, typer.Option(help="End before this text; may be repeated.", show_default=False)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.", show_default=False)] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always the likeliest token.")] = False,
    samples: Annotated[int, typer.Option(help="So many texts at once.")] = 1,
    json: Json = False,
) -> None:
    """Write on from a prompt, shown as it comes."""
    from scratchlm import api
    from scratchlm.models import Seq2Seq

    model = api.load(run)
    streams = samples == 1 and not json
    shown = iter([] if isinstance(model.model, Seq2Seq) else [prompt])

    def write(_number: int, text: str) -> None:
        sys.stdout.write(next(shown, "") + text)  # the prompt comes once there is something to add to it
        sys.stdout.flush()

    texts = model.generate(
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        greedy=greedy,
        seed=seed,
        stop=stop or (),
        samples=samples,
        on_text=write if streams else None,
    )
    if json:
        kept = ("text", "completion", "finish_reason")
        each = [{key: getattr(text, key) for key in kept} | {"tokens": len(text.ids)} for text in texts]
        print_json({"prompt": prompt, "seed": texts[0].seed, "samples": each})
    elif streams:
        print(next(shown, ""))
    else:
        for number, text in enumerate(texts, 1):
            print(f"--- {number} of {samples} (seed {text.seed}) ---\n{text.text}")
