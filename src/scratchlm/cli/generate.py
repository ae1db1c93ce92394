"""``scratchlm generate``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from scratchlm.cli.constraining import Choices, GrammarFile, Regex, Schema, grammar_asked
from scratchlm.cli.output import Json, Model, Precision, print_json
from scratchlm.errors import UserError

if TYPE_CHECKING:
    from scratchlm.language_model import LanguageModel


def generate(
    model: Model,
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
    beams: Annotated[int, typer.Option(help="Search for the likeliest whole text with so many beams; 0 draws.")] = 0,
    schema: Schema = None,
    regex: Regex = None,
    choices: Choices = None,
    grammar: GrammarFile = None,
    precision: Precision = "auto",
    speculate: Annotated[int, typer.Option(help="Guess so many tokens from the text and check them in one pass.")] = 0,
    logprobs: Annotated[
        int | None,
        typer.Option(help="With --json: log-probabilities, and so many of the likeliest.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Write on from a prompt, shown as it comes."""
    from scratchlm import api

    asked = grammar_asked(schema, regex, choices, grammar)
    loaded = api.load(model, precision=precision)
    if beams:
        drawn = (temperature, top_k, top_p, min_p, repetition_penalty, stop, seed, speculate, logprobs, asked)
        if drawn != (None, 0, 1.0, 0.0, 1.0, None, None, 0, None, None):
            raise UserError(
                "a beam search draws nothing: leave out --beams, or the options of drawing, stop and others"
            )
        _search(loaded, prompt, max_new_tokens, beams, samples, json)
        return
    streams = samples == 1 and not json
    shown = iter([] if loaded.config.architecture == "seq2seq" else [prompt])

    def write(_number: int, text: str) -> None:
        sys.stdout.write(next(shown, "") + text)  # the prompt comes once there is something to add to it
        sys.stdout.flush()

    texts = loaded.generate(
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
        log_probabilities=logprobs if json else None,
        speculate=speculate,
        grammar=asked,
    )
    if json:
        kept = ("text", "completion", "finish_reason")
        each = [{key: getattr(text, key) for key in kept} | {"tokens": len(text.ids)} for text in texts]
        for row, text in zip(each, texts, strict=True):
            if logprobs is not None:
                row["logprobs"] = [loaded.explain(token) for token in text.tokens]
        print_json({"prompt": prompt, "seed": texts[0].seed, "samples": each})
    elif streams:
        print(next(shown, ""))
    else:
        for number, text in enumerate(texts, 1):
            print(f"--- {number} of {samples} (seed {text.seed}) ---\n{text.text}")


def _search(loaded: LanguageModel, prompt: str, max_new_tokens: int, beams: int, samples: int, json: bool) -> None:
    found = loaded.search(prompt, beams=beams, max_new_tokens=max_new_tokens, best=samples)
    if json:
        kept = ("text", "completion", "log_probability", "score")
        print_json({"prompt": prompt, "beams": [{key: getattr(text, key) for key in kept} for text in found]})
    else:
        print("\n".join(f"--- {text.score:.3f} nats a token ---\n{text.text}" for text in found))
