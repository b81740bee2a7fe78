"""Task-batched adapters on tiny random backbones."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

from metascale.core import trees
from metascale.core.dropout import DropoutMasks
from metascale.core.errors import InputError
from metascale.core.types import Batch, Model
from metascale.models.text.architectures import ARCHITECTURES, match_targets
from metascale.models.text.classifiers import AdapterClassifier
from metascale.models.text.heads import LearnedHead, PrototypeHead, ZeroHead
from metascale.models.text.hf import DTYPES, random_backbone
from metascale.models.text.lora import AdapterCall, add_adapter
from metascale.testing.model_contract import check_model, generators_untouched
from tests.models.tiny_backbones import CONFIGS, FULL_FLOAT64, text_batch, tiny

FAMILIES = sorted(CONFIGS)


def classifier(family: str, attention: str = "eager", dtype: str = "float32", **fields: object) -> AdapterClassifier:
    fields = {"n_classes": 3, "rank": 2, "alpha": 4.0, **fields}
    return AdapterClassifier(tiny(family, attention, dtype), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_contract_with_second_order(family: str) -> None:
    dtype = "float64" if family in FULL_FLOAT64 else "float32"
    model = classifier(family, "eager", dtype)
    check_model(model, text_batch, dtype=DTYPES[dtype], drops_out=True, smooth=family != "t5")


@pytest.mark.parametrize("family", FAMILIES)
def test_contract_first_order_kernel(family: str) -> None:
    check_model(classifier(family, "sdpa", head=ZeroHead()), text_batch, drops_out=True)


def test_contract_learned_head_all_layers_checkpointed() -> None:
    model = classifier(
        "bert", "eager", "float64", head=LearnedHead(), targets=("query", "key", "dense"), checkpoint_blocks="adapters"
    )
    check_model(model, text_batch, dtype=torch.float64, drops_out=True)


def test_is_a_model() -> None:
    assert isinstance(classifier("bert"), Model)


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_merged_weights(family: str) -> None:
    """The adapted pass of one task is the pass of a backbone whose weights are W + (alpha/r) B A."""
    model = classifier(family, dropout=0.0)
    params = {name: value + 0.1 for name, value in model.init(0).items()}
    batch = text_batch(1, 4, 0)
    found = model.features(trees.stack_tasks(params, 1), batch)
    merged = dict(model.backbone.named_parameters())
    for name in model.shapes:
        update = 2.0 * params[name + ".lora_B"] @ params[name + ".lora_A"]
        weight = merged[name + ".weight"]
        merged[name + ".weight"] = weight + (update.T if family == "gpt2" else update)
    inputs = {key: value[0] for key, value in batch.inputs.items()}
    hidden = torch.func.functional_call(model.backbone, merged, kwargs=inputs).last_hidden_state
    mask = inputs["attention_mask"]
    if ARCHITECTURES[family].pooling == "last":
        expected = torch.stack([hidden[row, mask[row].sum() - 1] for row in range(4)])
    else:
        expected = torch.stack([hidden[row, : mask[row].sum()].mean(0) for row in range(4)])
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_does_not_matter(family: str) -> None:
    """A text's features are those it has alone, without padding, whatever the padding token."""
    model = classifier(family)
    params = trees.stack_tasks({name: value + 0.05 for name, value in model.init(0).items()}, 1)
    batch = text_batch(1, 4, 1)
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    junk = Batch({"input_ids": torch.where(mask.bool(), ids, 7), "attention_mask": mask}, batch.targets)
    together = model.features(params, junk)
    for row in range(4):
        length = int(mask[0, row].sum())
        cut = ids[:, row : row + 1, :length]
        alone = model.features(params, Batch({"input_ids": cut}, batch.targets[:, row : row + 1]))
        torch.testing.assert_close(together[:, row : row + 1], alone, rtol=1e-4, atol=1e-5)


def test_columns_of_padding_are_cut_off() -> None:
    model = classifier("bert")
    params = trees.stack_tasks(model.init(0), 1)
    batch = text_batch(1, 3, 0)
    wide = batch.map(lambda value: torch.nn.functional.pad(value, (0, 5)) if value.dim() == 3 else value)
    seen = []
    handle = model.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    model.features(params, wide)
    handle.remove()
    assert seen == [(3, int(batch.inputs["attention_mask"].sum(-1).max()))]


def test_two_classifiers_share_a_backbone() -> None:
    """A second classifier with other layers and rank leaves the first one's numbers alone."""
    first = classifier("llama", targets=("q_proj", "v_proj"))
    params = trees.stack_tasks({name: value + 0.1 for name, value in first.init(0).items()}, 2)
    batch = text_batch(2, 3, 0)
    before = first.features(params, batch)
    second = AdapterClassifier(first.backbone, n_classes=3, rank=5)
    other = trees.stack_tasks({name: value + 0.1 for name, value in second.init(0).items()}, 2)
    assert not torch.allclose(before, second.features(other, batch), atol=1e-3)
    assert torch.equal(before, first.features(params, batch))


def test_backbone_alone_is_unchanged() -> None:
    plain, attached = tiny("gpt2", seed=3), tiny("gpt2", seed=3)
    ids = text_batch(1, 3, 0).inputs["input_ids"][0]
    before = plain(ids).last_hidden_state
    model = AdapterClassifier(attached, n_classes=3)
    model.features(
        trees.stack_tasks({name: value + 0.1 for name, value in model.init(0).items()}, 1), text_batch(1, 3, 0)
    )
    assert torch.equal(before, attached(ids).last_hidden_state)
    assert not any(parameter.requires_grad for parameter in attached.parameters())
    assert not attached.training


def test_a_copy_of_an_adapted_backbone_has_its_own_weights() -> None:
    model = AdapterClassifier(random_backbone(CONFIGS["bert"](), 0), n_classes=3, targets=("query",))
    twin = AdapterClassifier(copy.deepcopy(model.backbone), n_classes=3, targets=("query",))
    params = trees.stack_tasks({name: value + 0.1 for name, value in model.init(0).items()}, 1)
    batch = text_batch(1, 3, 0)
    before = model.features(params, batch)
    assert torch.equal(before, twin.features(params, batch))
    with torch.no_grad():
        for parameter in twin.backbone.parameters():
            parameter.mul_(1.5)
    assert torch.equal(before, model.features(params, batch))
    assert not torch.allclose(before, twin.features(params, batch), atol=1e-2)


def test_a_backbone_in_training_is_frozen() -> None:
    """Its own dropout would read the global generator."""
    backbone = random_backbone(CONFIGS["bert"](), 0).train().requires_grad_(True)
    model = AdapterClassifier(backbone, n_classes=3)
    params = trees.stack_tasks(model.init(0), 1)
    batch = text_batch(1, 3, 0)
    with generators_untouched():
        features = model.features(params, batch)
    assert torch.equal(features, model.features(params, batch))
    assert not features.requires_grad


def test_initial_adapters_change_nothing() -> None:
    model = classifier("llama", dropout=0.5)
    batch = text_batch(2, 3, 0)
    params = trees.stack_tasks(model.init(0), 2)
    ids, mask = (batch.inputs[key].flatten(0, 1) for key in ("input_ids", "attention_mask"))
    hidden = model.backbone(ids, attention_mask=mask).last_hidden_state
    expected = hidden[torch.arange(6), mask.sum(1) - 1].view(2, 3, -1)
    torch.testing.assert_close(model.features(params, batch), expected)
    assert all(bool(value.any()) == name.endswith("lora_A") for name, value in model.init(0).items())


def test_init_has_kaiming_spread() -> None:
    params = classifier("bert", rank=512).init(0)
    a = params["encoder.layer.0.attention.self.query.lora_A"]
    assert float(a.abs().max()) <= 32**-0.5
    assert float(a.std()) == pytest.approx((3 * 32) ** -0.5, rel=0.02)


def test_blocks_below_the_first_adapter_have_no_graph() -> None:
    model = classifier("bert", targets=("layer.1.attention.self.query",))
    graph: list[bool] = []
    handle = model.backbone.get_submodule("encoder.layer.0").register_forward_hook(
        lambda module, args, output: graph.append(output.requires_grad)
    )
    params = trees.require_grad(trees.stack_tasks(model.init(0), 1))
    assert model.features(params, text_batch(1, 3, 0)).requires_grad
    handle.remove()
    assert graph == [False]


def test_dropout_acts_on_the_adapter_s_input_alone() -> None:
    """y + scale · B A (mask ⊙ x), with the layer's own output untouched."""
    generator = torch.Generator().manual_seed(0)
    x, y, a, b = (torch.randn(shape, generator=generator) for shape in ((6, 5, 4), (6, 5, 3), (2, 2, 4), (2, 3, 2)))
    masks = DropoutMasks(0.4, 3, torch.arange(6))
    call = AdapterCall({"layer": (a, b)}, scale=0.5, n_tasks=2, masks=masks)
    masked = (x * masks(x, "layer")).view(2, 15, 4)
    expected = y + 0.5 * torch.einsum("tor,tri,tni->tno", b, a, masked).reshape(6, 5, 3)
    torch.testing.assert_close(add_adapter(y, x, "layer", call), expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_backbone_keeps_float32_adapters(dtype: str) -> None:
    reference, model = classifier("llama", "sdpa"), classifier("llama", "sdpa", dtype)
    params = {name: value + 0.02 for name, value in model.init(0).items()}
    assert {value.dtype for value in params.values()} == {torch.float32}
    batch = text_batch(2, 6, 0)
    begun = trees.require_grad(model.begin(trees.stack_tasks(params, 2), batch))
    losses = model.losses(begun, batch)
    grads = torch.autograd.grad(losses.sum(), list(begun.values()))
    assert losses.dtype == torch.float32
    assert {grad.dtype for grad in grads} == {torch.float32}
    exact = reference.losses({name: value.detach() for name, value in begun.items()}, batch)
    torch.testing.assert_close(losses, exact, rtol=0.05, atol=0.02)


def test_autocast() -> None:
    reference = classifier("bert", "sdpa")
    model = classifier("bert", "sdpa", autocast=torch.bfloat16)
    batch = text_batch(2, 6, 0)
    params = reference.begin(trees.stack_tasks({n: v + 0.05 for n, v in model.init(0).items()}, 2), batch)
    exact, low = reference.losses(params, batch), model.losses(params, batch)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, exact, rtol=0.05, atol=0.02)
    assert not torch.equal(low, exact)


def test_second_order_is_refused_by_name() -> None:
    classifier("llama", "eager").require_second_order()
    with pytest.raises(InputError, match='attn_implementation="eager"'):
        classifier("llama", "sdpa").require_second_order()


def test_targets_that_match_nothing_name_the_nearest() -> None:
    with pytest.raises(InputError, match="'q_proj'"):
        classifier("llama", targets=("qproj",))
    with pytest.raises(InputError, match=r"'attn\.c_attn'"):
        classifier("gpt2", targets=("attn.cattn",))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, "at least 1"),
        ({"n_classes": 0}, "at least 1"),
        ({"dropout": 1.0}, "dropout of the adapters must be from 0 to below 1, not 1"),
        ({"pooling": "max"}, "'last', 'mean', 'first'"),
    ],
)
def test_bad_fields(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        classifier("bert", **fields)


def test_parameters_without_the_batch_s_tasks_are_refused() -> None:
    model = classifier("bert")
    with pytest.raises(InputError, match="the batch holds 3 tasks"):
        model.features(trees.stack_tasks(model.init(0), 2), text_batch(3, 3, 0))


def test_poolers_are_not_adapted() -> None:
    assert match_targets(["encoder.dense", "pooler.dense"], ("dense",)) == ["encoder.dense"]


def test_counts_and_description() -> None:
    model = classifier("llama", head=LearnedHead())
    per_block = 2 * ((32 + 32) * 2 + (32 + 16) * 2 + (32 + 48) * 3)
    assert model.n_params_trainable == 2 * per_block + 3 * 32 + 3
    assert model.n_params_trainable == trees.n_elements(model.init(0))
    assert model.n_params_total == model.n_params_trainable + sum(p.numel() for p in model.backbone.parameters())
    record = model.describe()
    assert record["targets"] == ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert record["head"] == {"name": "LearnedHead", "feature_norm": 10.0}


def test_first_token_pooling() -> None:
    model = classifier("bert", pooling="first")
    batch = text_batch(1, 3, 0)
    ids, mask = (batch.inputs[key][0] for key in ("input_ids", "attention_mask"))
    expected = model.backbone(ids, attention_mask=mask).last_hidden_state[:, 0]
    torch.testing.assert_close(model.features(trees.stack_tasks(model.init(0), 1), batch)[0], expected)


def test_prototype_gradient_reaches_the_adapters_only_when_asked() -> None:
    batch = text_batch(2, 6, 0)
    for differentiable in (False, True):
        model = classifier("bert", head=PrototypeHead(differentiable=differentiable))
        params = trees.require_grad({n: v + 0.1 for n, v in trees.stack_tasks(model.init(0), 2).items()})
        assert model.begin(params, batch)["head.weight"].requires_grad == differentiable


def test_no_warnings_from_a_plain_pass() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = classifier("gpt2", "sdpa")
        model.features(trees.stack_tasks(model.init(0), 2), text_batch(2, 3, 0))


def test_a_head_alone_may_be_learnt() -> None:
    model = classifier("bert", targets=(), head=LearnedHead())
    params = model.init(0)
    assert set(params) == {"head.weight", "head.bias"}
    batch = text_batch(2, 4, seed=0)
    assert model.losses(trees.stack_tasks(params, 2), batch).shape == (2,)
