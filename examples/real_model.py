"""Chapters "A real model, taken apart" and "Inference": a model that others trained continues, answers and compares.

    scratchlm models pull smollm2-135m-instruct
    scratchlm models pull all-minilm-l6-v2
    python examples/real_model.py

Nothing is fetched by the script itself.
"""

import scratchlm
from scratchlm.generation.sampling import SamplingConfig
from scratchlm.retrieval import Embedder

smol = scratchlm.load("smollm2-135m-instruct")
print(smol.generate("The capital of Italy is", max_new_tokens=20, greedy=True)[0].text)

# An answer, as it comes. The next turn reads only what is new: the rest is in the cache.
messages = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
answer = smol.chat(
    messages,
    sampling=SamplingConfig(greedy=True),
    max_new_tokens=60,
    on_text=lambda _number, text: print(text, end="", flush=True),
)
print(f"\n({len(answer.ids)} tokens in {smol.engine().backend.precision})")

# Texts of like meaning have vectors of like direction.
texts = ["The poet was born in 1207.", "Rumi's year of birth", "How to bake bread"]
vectors = Embedder.open("all-minilm-l6-v2").embed(texts).vectors
for text, cosine in zip(texts[1:], vectors[1:] @ vectors[0], strict=True):
    print(f"{cosine:.2f}  {texts[0]} ~ {text}")
