"""Reward models: the loss of a textbook, whatever the layout; what is learned; the same number by every way."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scratchlm.alignment import reward_model as module
from scratchlm.alignment.pair_report import judge_pairs
from scratchlm.alignment.reward_model import Pairwise, RewardConfig, RewardModel, judge_examples, pair_margins
from scratchlm.checkpoints import save_huggingface
from scratchlm.data import Batch, Examples, Plan, encode_records
from scratchlm.data.record_rows import Record
from scratchlm.data.records import Records
from scratchlm.errors import UserError
from scratchlm.generation.predict import Predictor, predict_texts
from scratchlm.models import ModelConfig, build_model, model_preset, with_head
from scratchlm.tokenizers import Tokenizer, render_chat, train_tokenizer
from scratchlm.training.distributed import World

PLACE = World(torch.device("cpu"))
TEXT = "the cat sat on a mat and it rained all day long good bad fine poor"
WORDS = TEXT.split()
PAIRS = [
    ("a good day", "a bad day"),
    ("the cat is fine and the mat is good", "poor"),
    ("good cat", "the cat sat on a bad mat all day long"),
    ("it rained and it is good", "it rained and it is poor"),
]
MARGINS = np.array([1.0, 2.0, 0.5, 1.5], np.float32)

BERT = ModelConfig(
    2, "encoder", 40, 32, 2, norm_placement="post", qkv_bias=True, embedding_norm=True, token_types=2, final_norm=False,
    head="mlm", tied_embeddings=True, init_std=0.1,
)  # fmt: skip


@pytest.fixture(scope="module")
def known() -> Tokenizer:
    return train_tokenizer("bpe", [TEXT] * 3, vocab_size=300, special_tokens=("<|endoftext|>", "[CLS]"))


def judge(preset: str, known: Tokenizer, **changes: Any) -> Any:
    torch.manual_seed(0)
    changes = {"context": 40, "init_std": 0.1} | changes
    shape = BERT if preset == "bert" else model_preset(preset, known.vocab_size, **changes)
    shape = replace(shape, vocab_size=known.vocab_size)
    return with_head(build_model(shape), "reward", seed=1).eval()


def examples(pairs: list[tuple[str, str]], known: Tokenizer, preset: str, prompt: str = "") -> Examples:
    records = Records("", "", "preference", "", {}, [Record(prompt=prompt, texts=pair) for pair in pairs])
    return encode_records(records, known, max_length=40, causal=preset != "tinybert")


def ends(preset: str, known: Tokenizer) -> Any:
    return known.eos_ids if preset == "tinygpt" else None


def plan(pairs: list[tuple[str, str]], known: Tokenizer, preset: str, rows: int = 9, **options: Any) -> Plan:
    return Plan(examples(pairs, known, preset), rows, options.pop("tokens", 4096), **options)


def pairwise(known: Tokenizer, preset: str, config: RewardConfig | None = None, **options: Any) -> Pairwise:
    made = plan(PAIRS, known, preset, **options)
    return Pairwise(made, None, MARGINS, config or RewardConfig(), ends=ends(preset, known))


def one_by_one(model: Any, text: str, known: Tokenizer) -> float:
    """A text's reward, alone and unpadded."""
    ids = [*known.prefix_ids, *known.encode(text), *known.suffix_ids]
    with torch.no_grad():
        return float(model(torch.tensor([ids]))[0, 0 if model.config.architecture == "encoder" else -1, 0])


@pytest.mark.parametrize("method", ["pack", "length"])
@pytest.mark.parametrize("preset", ["tinygpt", "tinybert"])
def test_the_loss_is_that_of_the_textbook(preset: str, method: Any, known: Tokenizer) -> None:
    model = judge(preset, known)
    task = pairwise(known, preset, RewardConfig(margin_weight=0.5, centring=0.1), method=method)
    with torch.no_grad():
        found = [task.loss(model, batch) for batch in task.train.step(0)]
    expected = 0.0
    for (chosen, rejected), margin in zip(PAIRS, MARGINS, strict=True):
        one, other = one_by_one(model, chosen, known), one_by_one(model, rejected, known)
        expected += math.log1p(math.exp(-(one - other - 0.5 * float(margin)))) + 0.1 * (one + other) ** 2
    assert sum(int(count) for _, count in found) == len(PAIRS)
    assert sum(float(loss) for loss, _ in found) == pytest.approx(expected, abs=1e-4)
    work = task.work(0, 9, 1, PLACE, torch.Generator())
    assert work.labels == len(PAIRS)


@pytest.mark.parametrize("preset", ["tinygpt", "tinybert"])
def test_a_step_is_the_same_in_any_number_of_passes_and_processes(preset: str, known: Tokenizer) -> None:
    model = judge(preset, known)
    slopes = []
    for rows, passes, tokens, processes in ((8, 1, 4096, 1), (1, 8, 24, 1), (2, 4, 24, 2)):
        made = plan(PAIRS * 2, known, preset, rows=8, tokens=tokens)
        task = Pairwise(made, None, np.tile(MARGINS, 2), RewardConfig(), ends=ends(preset, known))
        places = [World(torch.device("cpu"), rank, processes) for rank in range(processes)]
        works = [task.work(0, rows, passes, place, torch.Generator()) for place in places]
        assert {work.labels for work in works} == {8}
        model.zero_grad()
        total = torch.zeros(())
        for batch in (batch for work in works for batch in work.batches):
            loss, _ = task.loss(model, batch)
            (loss / 8).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        slopes.append(torch.cat([total[None], *(p.grad.flatten() for p in model.parameters() if p.grad is not None)]))
    for other in slopes[1:]:
        torch.testing.assert_close(other, slopes[0], atol=1e-5, rtol=1e-4)


def test_a_pair_whose_margin_is_larger_is_asked_for_more(known: Tokenizer) -> None:
    """Held-out pairs have their own margins, after those that are learned from."""
    model = judge("tinygpt", known)
    train, held_out = plan(PAIRS[:3], known, "tinygpt"), plan(PAIRS[3:], known, "tinygpt")
    losses = []
    for last in (0.0, 4.0):
        margins = np.array([9.0, 9.0, 9.0, last], np.float32)
        task = Pairwise(train, held_out, margins, RewardConfig(margin_weight=1.0), ends=known.eos_ids)
        (batch,) = list(task.validation() or ())
        with torch.no_grad():
            losses.append(float(task.loss(model, batch)[0]))
    gap = one_by_one(model, PAIRS[3][0], known) - one_by_one(model, PAIRS[3][1], known)
    assert losses == pytest.approx([math.log1p(math.exp(-gap)), math.log1p(math.exp(4 - gap))], abs=1e-5)


@pytest.mark.parametrize("preset", ["tinygpt", "tinybert"])
def test_everything_that_is_trained_moves_and_what_is_frozen_does_not(preset: str, known: Tokenizer) -> None:
    model = judge(preset, known).train()
    model.embed.requires_grad_(False)
    # Without the centring, what all rewards share, such as a bias of the head, is in no gap.
    task = pairwise(known, preset, RewardConfig(centring=0.1))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for batch in task.train.step(0):
        task.loss(model, batch)[0].backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    still = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert still == {name for name in before if name.startswith("embed.")}


def test_what_makes_a_text_good_is_learned_and_holds_for_other_texts(known: Tokenizer) -> None:
    draw = np.random.default_rng(0)

    def text(*mood: str) -> str:
        words = [str(one) for one in draw.choice(WORDS[:12], 6)]
        words[int(draw.integers(6))] = str(draw.choice(mood))
        return " ".join(words)

    pairs = [(text("good", "fine"), text("bad", "poor")) for _ in range(80)]
    model = judge("tinygpt", known, layers=1, width=32, dropout=0.0)
    held_out = plan(pairs[64:], known, "tinygpt", rows=16)
    task = Pairwise(
        plan(pairs[:64], known, "tinygpt", rows=64),
        held_out,
        np.zeros(80, np.float32),
        RewardConfig(),
        ends=known.eos_ids,
    )
    before = judge_pairs(model, held_out, np.zeros(16, np.float32), PLACE, ends=known.eos_ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(25):
        work = task.work(step, 64, 1, PLACE, torch.Generator())
        optimizer.zero_grad()
        for batch in work.batches:
            (task.loss(model, batch)[0] / work.labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    after = judge_pairs(model, held_out, np.zeros(16, np.float32), PLACE, ends=known.eos_ids)
    assert before.accuracy < 0.9
    assert after.accuracy == 1
    assert after.loss < 0.2 < before.loss
    metrics = task.metrics()
    assert metrics["accuracy"] == 1
    assert metrics["reward_margin"] == pytest.approx(metrics["reward_chosen"] - metrics["reward_rejected"], abs=1e-4)


@pytest.mark.parametrize("preset", ["tinygpt", "tinybert"])
def test_training_predicting_and_rewarding_give_the_same_number(preset: str, known: Tokenizer) -> None:
    model = judge(preset, known)
    texts = [text for pair in PAIRS for text in pair]
    rewards = judge_examples(model, plan(PAIRS, known, preset), PLACE, ends=ends(preset, known))
    predicted = [one.reward for one in predict_texts(model, known, texts)]  # type: ignore[union-attr]
    assert rewards.tolist() == pytest.approx([one_by_one(model, text, known) for text in texts], abs=1e-5)
    assert predicted == pytest.approx(rewards.tolist(), abs=1e-5)


def test_a_text_that_is_in_several_pairs_is_judged_once(known: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    model = judge("tinygpt", known)
    pairs = [("a good day", "poor"), ("a good day", "bad"), ("good cat", "poor")]
    seen = []
    whole = module.judge_batch

    def counted(model: Any, batch: Batch) -> Any:
        found = whole(model, batch)
        seen.extend(found[0].tolist())
        return found

    monkeypatch.setattr(module, "judge_batch", counted)
    rewards = judge_examples(model, plan(pairs, known, "tinygpt"), PLACE, ends=known.eos_ids)
    assert sorted(seen) == [0, 1, 2, 3]
    expected = [one_by_one(model, text, known) for pair in pairs for text in pair]
    assert rewards.tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("preset", ["tinygpt", "bert"])
def test_a_saved_model_is_a_reward(preset: str, known: Tokenizer, tmp_path: Path) -> None:
    model = judge(preset, known)
    save_huggingface(model, tmp_path / "judge", known)
    reward = RewardModel.load(tmp_path / "judge")
    completions = [text for pair in PAIRS for text in pair]
    found = reward(["the cat "] * len(completions), completions, answer=["unused"] * len(completions))
    form = "tinybert" if preset == "bert" else preset
    expected = judge_examples(
        model, Plan(examples(PAIRS, known, form, "the cat "), 9, 4096), PLACE, ends=ends(preset, known)
    )
    assert found == pytest.approx(expected.tolist(), abs=1e-5)
    assert len({round(one, 6) for one in found}) == len(found)
    assert reward(["the cat "], completions[3:4]) == pytest.approx(found[3:4], abs=1e-6)
    assert reward([], []) == []
    assert reward.truncated == 0
    reward([""], ["the cat sat on a mat " * 30])
    assert reward.truncated == 1


def test_a_chat_is_judged_as_it_is_rendered(known: Tokenizer) -> None:
    template = (
        "{% for m in messages %}{{ m.role }} {% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }} {% endif %}{% endfor %}"
    )
    chatty = copy.copy(known)
    chatty.chat_template = template
    model = judge("tinygpt", chatty)
    reward = RewardModel(Predictor(model, chatty), "judge")
    chat = [{"role": "user", "content": "the cat"}]
    (found,) = reward([chat], ["good"])
    ids = render_chat(chatty, [*chat, {"role": "assistant", "content": "good"}]).ids
    assert chatty.decode(ids) == "user the cat assistant good"
    with torch.no_grad():
        assert found == pytest.approx(float(model(torch.tensor([ids]))[0, -1, 0]), abs=1e-5)


def test_what_is_no_reward_model_and_what_has_no_token_is_told_in_one_line(known: Tokenizer, tmp_path: Path) -> None:
    base = build_model(model_preset("tinygpt", known.vocab_size, context=40))
    save_huggingface(with_head(base, "classify", ("no", "yes")), tmp_path / "labels", known)
    with pytest.raises(UserError, match=r"labels gives no rewards; train a reward model with: scratchlm align reward"):
        RewardModel.load(tmp_path / "labels")
    with pytest.raises(ValueError, match="for the task classify, not for rewards"):
        RewardModel(Predictor(with_head(base, "classify", ("no", "yes")), known), "labels")
    save_huggingface(with_head(base, "reward"), tmp_path / "judge", known)
    with pytest.raises(UserError, match=r"completion 2 and its prompt have no token for .*judge to judge"):
        RewardModel.load(tmp_path / "judge")(["", ""], ["good", ""])
    with pytest.raises(UserError, match="max_length is 99; "):
        RewardModel.load(tmp_path / "judge", max_length=99)


def test_a_pair_that_is_not_whole_is_noticed(known: Tokenizer) -> None:
    task = pairwise(known, "tinygpt")
    (batch,) = task.train.step(0)
    assert batch.labels is not None
    for number in (0, 1):
        labels = batch.labels.masked_fill(batch.labels == number, -100)
        with pytest.raises(ValueError, match="in one pass"):
            task.loss(judge("tinygpt", known), replace(batch, labels=labels))
    with pytest.raises(ValueError, match="without labels"):
        task.loss(judge("tinygpt", known), replace(batch, labels=None))
    nothing = Batch(torch.zeros(1, 1, dtype=torch.int64), torch.full((1, 1), -100))
    loss, count = task.loss(judge("tinygpt", known), nothing)
    assert (float(loss.detach()), int(count)) == (0.0, 0)
    with pytest.raises(ValueError, match="two texts and one margin"):
        Pairwise(task.train, None, MARGINS[:2], RewardConfig(), ends=known.eos_ids)


@pytest.mark.parametrize("name", ["margin_weight", "centring"])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "much", True, None])
def test_settings_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{name} is .*; give a number of at least 0$"):
        RewardConfig(**{name: value})


def test_margins_are_those_of_the_rows_that_are_left(known: Tokenizer) -> None:
    rows = [Record(margin=margin) for margin in (1.0, 2.0, 3.0)]
    records = Records("", "", "preference", "", {}, rows)
    left = replace(examples(PAIRS[:2], known, "tinygpt"), rows=np.array([0, 0, 2, 2]))
    assert pair_margins(records, left).tolist() == [1, 3]
