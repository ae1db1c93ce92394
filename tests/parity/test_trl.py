"""trl's own trainers and ours say the same of the same: pairs, single completions, rewards and groups.

The formulas are held against each other on given log-probabilities, which a stand-in for a model hands to trl's
trainer; then DPO and GRPO as a whole, from a checkpoint and its rows to the loss and its gradients, with a real tiny
Llama. trl 1.16 has no PPO.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from scratchlm.alignment.grpo import Grpo, GrpoConfig
from scratchlm.alignment.policy import Prompts
from scratchlm.alignment.policy_losses import clipped_policy_losses, group_advantages, token_kl
from scratchlm.alignment.preference import Preference, PreferenceConfig
from scratchlm.alignment.preference_losses import (
    bradley_terry,
    kto_baseline,
    kto_losses,
    orpo,
    preference_losses,
    simpo,
)
from scratchlm.data import Plan, encode_records, read_records
from scratchlm.opening import open_model
from scratchlm.training.distributed import World

from ..alignment.tiny_policies import Rewarded
from ..training.tuned_models import sentence, tokenizer

transformers = pytest.importorskip("transformers", reason="the reference implementation is not installed")
datasets = pytest.importorskip("datasets", reason="trl needs it")
trl = pytest.importorskip("trl", reason="the reference implementation is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")

PAIRS, TOKENS = 5, 9
CPU = World(torch.device("cpu"))
SHAPE = {
    **{"hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "max_position_embeddings": 48, "bos_token_id": 0, "eos_token_id": 0},
}
ROWS = [
    {
        "prompt": sentence(number, 2 + number % 3),
        "chosen": f" {sentence(number + 20, 1 + number % 4)}",
        "rejected": f" {sentence(number + 50, 2 + number % 2)}",
    }
    for number in range(PAIRS)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, the same after some learning, and rows."""
    folder = tmp_path_factory.mktemp("theirs")
    words = tokenizer("gpt2")
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=words.vocab_size, **SHAPE))
    for name, by in (("before", 0.1), ("after", 0.02)):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=by)
        model.save_pretrained(folder / name)
        words.save(folder / name)
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in ROWS))
    return folder


def theirs(folder: Path, kind: str, *, after: bool = True, reference: bool = False, **options: Any) -> Any:
    """A trainer of theirs for the model, as DPOTrainer."""
    found = folder / ("after" if after else "before")
    words = transformers.AutoTokenizer.from_pretrained(found)
    words.pad_token = words.eos_token
    if kind == "GRPO":
        options["use_bias_correction_kl"] = False  # the distance of Shao et al. 2024, as ours
    arguments = getattr(trl, f"{kind}Config")(
        output_dir=str(folder / "trainer"),
        use_cpu=True,
        bf16=False,
        report_to=[],
        gradient_checkpointing=False,
        per_device_train_batch_size=6,
        **options,
    )
    more: dict[str, Any] = {}
    rows: list[dict[str, Any]] = ROWS
    if kind == "KTO":
        rows = [
            {"prompt": row["prompt"], "completion": row["chosen"], "label": n % 2 == 0} for n, row in enumerate(ROWS)
        ]
    if kind == "GRPO":
        rows = [{"prompt": row["prompt"]} for row in ROWS]
        more["reward_funcs"] = lambda completions, **_: [float(len(text) % 5) for text in completions]
    if reference:
        more["ref_model"] = transformers.LlamaForCausalLM.from_pretrained(folder / "before")
    cls = transformers.LlamaForSequenceClassification if kind == "Reward" else transformers.LlamaForCausalLM
    model = cls.from_pretrained(found, **({"num_labels": 1} if kind == "Reward" else {}))
    made = getattr(trl, f"{kind}Trainer")(
        model=model, args=arguments, train_dataset=datasets.Dataset.from_list(rows), processing_class=words, **more
    )
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    return made


def model_that_says(*answers: Tensor) -> Callable[..., Any]:
    """What trl's trainers ask of a model, with the log-probabilities given, one answer after the other."""
    left = list(answers)

    def says(**_: Any) -> Any:
        found = left.pop(0)
        others = torch.zeros(found.shape)
        return SimpleNamespace(log_probs=found, entropy=others, mean_logits=others, is_top1=others.bool())

    return says


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Log-probabilities of tokens."""
    return -2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def lengths(rows: int, seed: int = 7) -> Tensor:
    return torch.randint(1, TOKENS, (rows,), generator=torch.Generator().manual_seed(seed))


def within(rows: int) -> Tensor:
    """Where tokens are, (rows, TOKENS)."""
    return torch.arange(TOKENS) < lengths(rows)[:, None]


# -- formulas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "their_kind", "smoothing"),
    [("dpo", "sigmoid", 0.0), ("dpo", "aot", 0.2), ("ipo", "ipo", 0.0), ("hinge", "hinge", 0.0)],
)
def test_the_losses_of_pairs(kind: Any, their_kind: str, smoothing: float, folder: Path) -> None:
    """Each alone: of one pair their "aot" is DPO with smoothing, which their "sigmoid" no longer has."""
    trainer = theirs(folder, "DPO", loss_type=[their_kind], beta=0.7, label_smoothing=smoothing, reference=True)
    trainer.precompute_ref_logps = True
    mask = within(2 * PAIRS)
    policy = (drawn(2 * PAIRS, TOKENS) * mask).requires_grad_()
    reference = (drawn(2 * PAIRS, TOKENS, seed=1) * mask).sum(1)
    found, wanted = [], []
    for pair in range(PAIRS):
        both = torch.tensor([pair, pair + PAIRS])
        masks = torch.cat([torch.zeros(2, 1, dtype=torch.bool), mask[both]], 1)
        inputs = {
            "input_ids": torch.ones(2, TOKENS + 1, dtype=torch.int64),
            "attention_mask": torch.ones(2, TOKENS + 1, dtype=torch.int64),
            "completion_mask": masks.long(),
            "ref_chosen_logps": reference[[pair]],
            "ref_rejected_logps": reference[[pair + PAIRS]],
        }
        wanted.append(trainer._compute_loss(model_that_says(policy[both]), inputs, False))
        sums, before, counts = policy[both].sum(1), reference[both], mask[both].sum(1)
        parts = (part[i : i + 1] for part in (sums, before, counts) for i in (0, 1))
        found.append(preference_losses(kind, *parts, beta=0.7, label_smoothing=smoothing)[0])
    ours, other = torch.stack(found), torch.stack(wanted)
    torch.testing.assert_close(ours, other)
    grads = [torch.autograd.grad(one.sum(), policy)[0] for one in (ours, other)]
    torch.testing.assert_close(*grads)
    assert len(set(ours.tolist())) >= 3  # some hinges are shut


def test_the_losses_of_pairs_without_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    cpo_trainer = pytest.importorskip("trl.experimental.cpo.cpo_trainer")
    orpo_trainer = pytest.importorskip("trl.experimental.orpo.orpo_trainer")
    chosen, rejected = drawn(PAIRS), drawn(PAIRS, seed=1)  # of a token
    trainer = object.__new__(cpo_trainer.CPOTrainer)
    trainer.__dict__.update(loss_type="simpo", alpha=0.0, beta=2.0, simpo_gamma=0.7, label_smoothing=0.0)
    trainer.accelerator = SimpleNamespace(device="cpu")
    torch.testing.assert_close(simpo(chosen, rejected, 2.0, 0.7), trainer.cpo_loss(chosen, rejected)[0])
    trainer = object.__new__(orpo_trainer.ORPOTrainer)
    trainer.__dict__.update(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
    odds = trainer.odds_ratio_loss(chosen, rejected)[0]
    torch.testing.assert_close(orpo(chosen, rejected, 0.3), -chosen - odds)


@pytest.mark.parametrize("leaves", [2.0, -2.0])
def test_the_loss_of_single_completions(leaves: float, folder: Path) -> None:
    """Where the policy has left the reference, and where the estimate of that is below zero."""
    trainer = theirs(folder, "KTO", beta=0.4, desirable_weight=1.5, undesirable_weight=0.8)
    trainer.precompute_ref_logps = True
    mask = within(PAIRS)
    policy = (drawn(PAIRS, TOKENS) * mask).requires_grad_()
    reference, others = drawn(PAIRS, seed=1) * 5, drawn(PAIRS, TOKENS, seed=2) * mask
    strangers = others.sum(1) - leaves
    liked = torch.tensor([True, False, True, True, False])
    ids = torch.ones(PAIRS, TOKENS + 1, dtype=torch.int64)
    masks = torch.cat([torch.zeros(PAIRS, 1, dtype=torch.int64), mask.long()], 1)
    inputs = {"input_ids": ids, "attention_mask": ids, "completion_mask": masks, "label": liked, "ref_logps": reference}
    inputs |= {f"KL_{name}": inputs[name] for name in ("input_ids", "attention_mask", "completion_mask")}
    inputs["ref_KL_logps"] = strangers
    wanted = trainer._compute_loss(model_that_says(others, policy), inputs, False)
    baseline = kto_baseline(others.sum(1), strangers)
    assert float(baseline) == pytest.approx(max(0.0, leaves))
    found = kto_losses(
        policy.sum(1), reference, liked, baseline, beta=0.4, desirable_weight=1.5, undesirable_weight=0.8
    )
    torch.testing.assert_close(found.mean(), wanted)
    torch.testing.assert_close(*(torch.autograd.grad(one, policy)[0] for one in (found.mean(), wanted)))


@pytest.mark.parametrize("margins", [False, True])
@pytest.mark.parametrize("centring", [0.0, 0.01])
def test_the_loss_of_reward_models(margins: bool, centring: float, folder: Path) -> None:
    trainer = theirs(folder, "Reward", center_rewards_coefficient=centring or None)
    rewards, margin = drawn(2 * PAIRS, seed=3), -drawn(PAIRS, seed=4)
    inputs: dict[str, Any] = {"attention_mask": torch.ones(2 * PAIRS, 3, dtype=torch.int64)}
    inputs |= {"margin": margin} if margins else {}
    wanted = trainer.compute_loss(lambda **_: SimpleNamespace(logits=rewards[:, None]), inputs)
    chosen, rejected = rewards.chunk(2)
    found = bradley_terry(chosen, rejected, margin if margins else 0.0, centring=centring).mean()
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("loss_type", "how"), [("grpo", "sequence"), ("bnpo", "token"), ("dapo", "token"), ("dr_grpo", "constant")]
)
@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_the_losses_of_groups(loss_type: str, how: str, level: Any, beta: float, folder: Path) -> None:
    rows, given = 6, {"epsilon": 0.1, "epsilon_high": 0.3, "num_generations": 2, "max_completion_length": TOKENS}
    trainer = theirs(folder, "GRPO", loss_type=loss_type, importance_sampling_level=level, beta=beta, **given)
    mask = within(rows)
    policy = drawn(rows, TOKENS).requires_grad_()
    reference = drawn(rows, TOKENS, seed=1)
    old = policy.detach() + drawn(rows, 1, seed=2) / 4 + drawn(rows, TOKENS, seed=3) / 4 + 0.5
    advantages = torch.randn(rows, generator=torch.Generator().manual_seed(2))
    ids = torch.ones(rows, TOKENS, dtype=torch.int64)
    inputs = {
        **{"prompt_ids": ids[:, :2], "prompt_mask": ids[:, :2], "completion_ids": ids, "completion_mask": mask.long()},
        **{"advantages": advantages, "old_per_token_logps": old, "ref_per_token_logps": reference},
        "num_items_in_batch": mask.sum(),
    }
    wanted = trainer._compute_loss(model_that_says(policy), inputs)

    owners = torch.arange(rows)[:, None].expand(-1, TOKENS)[mask]
    flat = policy[mask]
    losses, clipped = clipped_policy_losses(
        flat, old[mask], advantages[owners], low=0.1, high=0.3, level=level, sequences=owners
    )
    assert 0 < clipped.float().mean() < 1
    shares = trainer._metrics["train"]
    if level == "token":
        assert float(clipped.float().mean()) == pytest.approx(shares["clip_ratio/region_mean"][-1])
    if beta:
        kl = token_kl(flat, reference[mask], "k3")
        losses = losses + beta * kl
        assert float(kl.mean().detach()) == pytest.approx(shares["kl"][-1], rel=1e-5)
    if how == "sequence":
        found = (losses / lengths(rows)[owners]).sum() / rows
    else:
        found = losses.sum() / (rows * TOKENS if how == "constant" else len(losses))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(one, policy)[0] for one in (found, wanted)))


@pytest.mark.parametrize(("scale", "kind"), [("group", "grpo"), ("none", "dr_grpo")])
def test_advantages_of_groups(scale: str, kind: Any, folder: Path) -> None:
    """Their whole rollout, whose completions are rewarded by their lengths."""
    given = {"num_generations": 3, "max_completion_length": 6}
    trainer = theirs(folder, "GRPO", scale_rewards=scale, **given)
    torch.manual_seed(0)
    texts: list[list[str]] = []
    rewards = trainer.reward_funcs[0]
    trainer.reward_funcs[0] = lambda completions, **more: texts.append(completions) or rewards(completions, **more)
    inputs = [{"prompt": row["prompt"]} for row in ROWS[:2] for _ in range(3)]
    found = trainer._generate_and_score_completions(inputs)["advantages"]
    scores = torch.tensor(rewards(texts[0])).reshape(2, 3)
    assert scores.std(1).min() > 0
    torch.testing.assert_close(group_advantages(scores, kind).reshape(-1), found)


# -- as a whole ------------------------------------------------------------------------------------------------------


def compare_gradients(ours: Any, loss: Tensor, other: Any, wanted: Tensor) -> None:
    """Of the embeddings and the head one by one, and of all others, which the two cut in other ways, by their norm."""
    loss.backward()
    wanted.backward()
    for one, two in ((ours.embed.tokens, other.model.embed_tokens), (ours.head, other.lm_head)):
        assert float(two.weight.grad.norm()) > 1e-3
        torch.testing.assert_close(one.weight.grad, two.weight.grad, atol=1e-5, rtol=1e-3)
    norms = [
        sum(float(parameter.grad.square().sum()) for parameter in model.parameters() if parameter.grad is not None)
        for model in (ours, other)
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-3)


@pytest.mark.parametrize(("kind", "their_kind"), [("dpo", "sigmoid"), ("ipo", "ipo"), ("hinge", "hinge")])
def test_a_step_of_dpo_from_the_same_checkpoint_and_rows(kind: Any, their_kind: str, folder: Path) -> None:
    """Prompts, completions and their ends become the same tokens; the reference and the policy say the same of them."""
    trainer = theirs(folder, "DPO", loss_type=[their_kind], beta=0.2, reference=True)
    batch = trainer.data_collator(list(trainer.train_dataset))
    wanted = trainer._compute_loss(trainer.model, batch, False)

    opened = open_model(folder / "before")
    examples = encode_records(read_records(folder / "pairs.jsonl", task="preference"), opened.tokenizer, max_length=48)
    plan = Plan(examples, PAIRS, 60, 0, "auto", 48)
    task = Preference(plan, None, PreferenceConfig(loss=kind, beta=0.2), opened.model, CPU)
    opened.model.load_state_dict(open_model(folder / "after").model.state_dict())
    found = [task.loss(opened.model, batch) for batch in task.work(0, PAIRS, 1, CPU, torch.Generator()).batches]
    assert len(found) > 1
    loss = sum(one for one, _ in found) / sum(count for _, count in found)  # type: ignore[arg-type]
    assert sum(int(count) for _, count in found) == PAIRS
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), abs=1e-5)
    assert task.metrics()["accuracy"] == pytest.approx(trainer._metrics["train"]["rewards/accuracies"][-1])
    assert task.metrics()["reward_margin"] == pytest.approx(trainer._metrics["train"]["rewards/margins"][-1], abs=1e-5)
    compare_gradients(opened.model, loss, trainer.model, wanted)


@pytest.mark.parametrize(
    ("loss_type", "how", "more"),
    [
        ("dapo", "token", {}),
        ("grpo", "sequence", {"level": "sequence", "clip_low": 0.02, "clip_high": 0.04}),
        ("dr_grpo", "constant", {"advantages": "dr_grpo", "beta": 0.1, "temperature": 0.7}),
    ],
)
def test_the_second_update_of_grpo_on_the_same_completions(
    loss_type: str, how: Any, more: dict[str, Any], folder: Path
) -> None:
    """Ours rolls out with the model as it was, and both learn from that with the model as it has become."""
    opened = open_model(folder / "before")
    records = read_records(folder / "prompts.jsonl", task="rollout")
    examples = encode_records(records, opened.tokenizer, max_length=20)
    config = GrpoConfig(**{"completions": 3, "new_tokens": 8, "updates": 2, "samples_every": 0, "loss": how} | more)
    task = Grpo(
        Plan(examples, 6, 40, 0, "auto", 48),
        Prompts.of(examples, records),
        config,
        opened.model,
        opened.tokenizer,
        Rewarded(lambda _, text: float(len(text) % 5)),
        CPU,
    )
    generator = torch.Generator().manual_seed(0)
    task.work(0, 6, 1, CPU, generator)
    task.begin(opened.model, [], CPU)
    opened.model.load_state_dict(open_model(folder / "after").model.state_dict())
    work = task.work(1, 6, 1, CPU, generator)
    loss = sum(task.loss(opened.model, batch)[0] for batch in work.batches) / work.labels
    assert isinstance(loss, Tensor)

    trainer = theirs(
        folder,
        "GRPO",
        loss_type=loss_type,
        importance_sampling_level=config.level,
        beta=config.beta,
        epsilon=config.clip_low,
        epsilon_high=config.clip_high,
        temperature=config.temperature,
        num_generations=3,
        max_completion_length=8,
    )
    rollouts, table = task.scored.rollouts, task.table
    prompts, texts = [one.prompt for one in rollouts], [one.completion for one in rollouts]
    width, longest = max(map(len, prompts)), max(map(len, texts))
    old, mask = table.rows(table.values["old"])
    inputs = {
        "prompt_ids": torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts]),
        "prompt_mask": torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts]),
        "completion_ids": torch.tensor([ids + [0] * (longest - len(ids)) for ids in texts]),
        "completion_mask": mask.long(),
        "old_per_token_logps": old,
        "num_items_in_batch": mask.sum(),
        "advantages": group_advantages(task.scored.total.reshape(-1, 3), config.advantages).reshape(-1),
    }
    if config.beta:
        inputs["ref_per_token_logps"] = table.rows(table.values["reference"])[0]
    wanted = trainer._compute_loss(trainer.model, inputs)
    assert float(wanted.detach()) != 0
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), abs=1e-5)
    compare_gradients(opened.model, loss, trainer.model, wanted)
