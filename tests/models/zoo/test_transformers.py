"""Transformers of the zoo: parts against what they stand for, sizes, layers, and integers."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional

from hwgen.errors import HwgenError
from hwgen.ir import Attention, LayerNorm
from hwgen.models import zoo
from hwgen.models.accuracy import measure
from hwgen.models.frames.images import photographs
from hwgen.models.load import read
from hwgen.models.onnx.session import session
from hwgen.models.zoo.llama import RMSNorm, turned
from hwgen.models.zoo.swin import HIDDEN, ShiftedBlock, Swin
from hwgen.models.zoo.transformer import Attend
from hwgen.models.zoo.vit import VisionTransformer
from tests.typed import of_kind

pytestmark = pytest.mark.network

SMALL = {"mixer-s16": 224, "swin-tiny": 224, "convnext-tiny": 64, "mobilevit-xxs": 64,
         "deit-tiny": 64, "deit-small": 32, "vit-b16": 32}
"""Sizes of images; texts have 12 tokens."""
LAYERED = [name for name in zoo.names() if zoo.find(name).layers is not None]


@pytest.mark.parametrize("kv_heads, causal", [(4, False), (4, True), (2, True), (1, False)])
def test_attend_is_attention(kv_heads, causal):
    torch.manual_seed(0)
    q = torch.randn(2, 5, 24)
    k, v = torch.randn(2, 2, 5, 6 * kv_heads)
    parts = [x.unflatten(-1, (-1, 6)).transpose(1, 2) for x in (q, k, v)]
    want = functional.scaled_dot_product_attention(*parts, is_causal=causal, enable_gqa=True)
    got = Attend(4, kv_heads, causal)(q, k, v)
    assert torch.allclose(got, want.transpose(1, 2).flatten(2), atol=1e-6)


def test_attend_adds_what_it_is_given():
    q, k, v = torch.randn(3, 1, 4, 6)
    hidden = torch.full((1, 2, 4, 4), float("-inf"))
    hidden[..., 1] = 0
    assert torch.allclose(Attend(2)(q, k, v, hidden), v[:, 1:2].expand(1, 4, 6))


def test_scores_of_turned_channels_depend_on_the_distance():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 8)
    q, k = (turned(x.repeat(1, 12, 2), 2) for x in (q, k))
    scores = q[0, :, :8] @ k[0, :, :8].T
    for distance in range(-11, 12):
        line = scores.diagonal(distance)
        assert torch.allclose(line, line[:1], atol=1e-5)
    assert abs(float(scores[0, 0] - scores[0, 3])) > 1e-3
    assert torch.equal(q[..., :8], q[..., 8:])
    assert torch.allclose(q.norm(dim=-1), q[:, :1].norm(dim=-1))


def test_rms_norm():
    x, norm = torch.randn(3, 16), RMSNorm(16)
    assert torch.allclose(norm(5 * x), functional.rms_norm(x, (16,)), atol=1e-4)


def test_positions_are_those_of_224_or_interpolated():
    module = VisionTransformer(24, 2, depth=1, classes=4)
    assert module.positions(14, 14) is module.pos_embed
    with torch.no_grad():
        module.pos_embed[:, 1:] = torch.arange(14.0).repeat_interleave(14)[None, :, None]
        small = module.positions(4, 7)
    assert small.shape == (1, 29, 24)
    assert torch.equal(small[:, 0], module.pos_embed[:, 0])
    rows = small[0, 1:].reshape(4, 7, 24)
    # Rows are in order, and columns alike.
    assert (rows.diff(dim=0) > 3).all()
    assert torch.allclose(rows, rows[:, :1].expand_as(rows), atol=1e-5)


def test_shifted_windows_hide_what_came_from_the_other_side():
    (blocks,) = Swin(8, (2,), (2,), side=4).stacks()
    hidden = of_kind(blocks[1], ShiftedBlock).hidden(8, 8)
    assert hidden.shape == (4, 16, 16)
    # The first window is whole; the last has four parts of 2x2, the others two halves.
    seen = [(window == 0).sum(-1) for window in hidden]
    assert [set(each.tolist()) for each in seen] == [{16}, {8}, {8}, {4}]
    assert set(hidden.unique().tolist()) == {0.0, HIDDEN}


def test_windows_of_different_images_stay_apart():
    torch.manual_seed(0)
    module = Swin(8, (2, 2), (2, 2), side=4, classes=3).eval()
    x = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(module(x)[1:2], module(x[1:2]), atol=1e-5)


@pytest.mark.parametrize("name, size, message", [
    ("deit-tiny", 72, "needs a size that is a multiple of 16, at least 32, not 72: try 64 or 80$"),
    ("vit-b16", 16, "at least 32, not 16: try 32$"),
    ("mixer-s16", 64, "224, because its weights are for 196 patches, not 64: try 224$"),
    ("swin-tiny", 96, "a multiple of 224, not 96: try 224$"),
    ("mobilevit-xxs", 32, "a multiple of 64, not 32: try 64$"),
    ("gpt2", 1025, "between 2 and 1024, not 1025: try 1024$"),
    ("bert-mini", 1, "between 2 and 512, not 1: try 2$"),
])
def test_sizes_refused(name, size, message):
    with pytest.raises(HwgenError, match=message):
        zoo.find(name).check_size(size)


@pytest.mark.parametrize("name, layers, message", [
    ("deit-tiny", 13, "deit-tiny has 12 layers, of which 1 to 12 can be kept, not 13$"),
    ("bert-mini", 0, "bert-mini has 4 layers, of which 1 to 4 can be kept, not 0$"),
    ("resnet18", 2, "resnet18 is taken whole, with all its layers: leave out layers$"),
])
def test_layers_refused(name, layers, message):
    with pytest.raises(HwgenError, match=message):
        read(name, layers=layers)


def test_layers_of_files_refused(tmp_path):
    with pytest.raises(HwgenError, match=r"Layers go with a zoo model: net\.onnx is taken whole"):
        read("net.onnx", layers=1)
    with pytest.raises(HwgenError, match=r"Layers go with a state dict: w\.onnx is taken whole"):
        read("deit-tiny", layers=1, weights=tmp_path.relative_to(tmp_path) / "w.onnx")


@pytest.mark.parametrize("name", LAYERED)
def test_layers_are_those_of_the_longest_stage(name):
    entry = zoo.find(name)
    with torch.device("meta"):
        module = entry.build()
    depths = [len(stack) for stack in module.stacks()]
    assert max(depths) == entry.layers
    module.keep(2)
    assert [len(stack) for stack in module.stacks()] == [min(2, n) for n in depths]
    shape = entry.input_shape(SMALL.get(name, 12))
    with torch.device("meta"):
        example = torch.zeros(shape)
        outputs = module.eval()(example.long() if entry.words else example)
    assert len(outputs) == len(entry.outputs) or isinstance(outputs, torch.Tensor)


def test_a_state_dict_is_that_of_the_whole_network(tmp_path):
    entry, photos, path = zoo.find("deit-tiny"), photographs(1, (32, 32)), tmp_path / "w.pt"
    whole = entry.module(None, photos, 3)
    torch.save(whole.state_dict(), path)
    cut = entry.module(path, photos, 0, 2)
    name = "blocks.1.attn.qkv.weight"
    assert torch.equal(cut.get_parameter(name), whole.get_parameter(name))
    assert "blocks.2.attn.qkv.weight" not in cut.state_dict()
    # Seeded weights are those of the whole network, too.
    again = entry.module(None, photos, 3, 1)
    assert torch.equal(again.get_parameter("head.weight"), whole.get_parameter("head.weight"))
    torch.save(cut.state_dict(), path)
    with pytest.raises(HwgenError, match=r"is not a state dict of deit-tiny: it lacks 'blocks\.2"):
        entry.module(path, photos, 0, 2)


def test_state_dicts_of_releases_carry_masks():
    with torch.device("meta"):
        for name, key in (("swin-tiny", "layers.0.blocks.1.attn_mask"),
                          ("gpt2", "h.3.attn.bias"), ("bert-mini", "embeddings.position_ids")):
            module = zoo.find(name).build()
            module.load_state_dict({**module.state_dict(), key: torch.zeros(2)}, assign=True)
            with pytest.raises(RuntimeError, match="Unexpected key"):
                module.load_state_dict({**module.state_dict(), "bias": torch.zeros(2)},
                                       assign=True)


def test_ids_are_those_of_the_vocabulary():
    entry, photos = zoo.find("bert-mini"), photographs(3, (20, 20))
    ids = entry.inputs(photos)
    assert (ids.shape, ids.dtype) == ((3, 20), np.int64)
    assert 0 <= ids.min() < ids.max() < 30522
    assert len(np.unique(ids)) > 20
    assert entry.extents(20) == "20 tokens"


@pytest.mark.parametrize("name", LAYERED)
def test_seeded_weights_are_sane_and_the_export_is_the_network(name):
    """One layer at full width: its activations, and what onnxruntime makes of its file."""
    entry, size = zoo.find(name), SMALL.get(name, 12)
    module = entry.module(None, photographs(4, (size, size), 0), 0, 1)
    x = torch.from_numpy(entry.inputs(photographs(3, (size, size), 7)))
    scores = []
    for part in module.modules():
        if isinstance(part, Attend):
            part.register_forward_hook(lambda m, i, out: scores.append(out))
    with torch.no_grad():
        outputs = module(x)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    assert len(outputs) == len(entry.outputs)
    for value in outputs:
        assert 0.05 < value.std() < 5
        # Frames differ, and so do tokens where there is one output for each of them.
        assert value.std(0).mean() > 0.03 * value.std()
    assert all(0.05 < each.std() < 5 for each in scores)
    file = onnx.load_from_string(entry.serialise(module, size))
    given, = file.graph.input
    assert given.name == ("ids" if entry.words else "image")
    values = session(file, intra_op_num_threads=1).run(list(entry.outputs), {
        given.name: x[:1].numpy()})
    for got, want in zip(values, outputs, strict=True):
        assert np.abs(got - want[:1].numpy()).max() < 1e-3 * want.abs().max()


@pytest.mark.parametrize("name, layers, norms, attentions", [
    ("deit-tiny", 2, 5, 2), ("mixer-s16", 1, 3, 0), ("convnext-tiny", 1, 9, 0),
])
def test_integers_are_near_floats(name, layers, norms, attentions):
    source = read(name, size=SMALL[name], layers=layers)
    assert source.graph.meta["layers"] == layers
    ops = [node.op for node in source.graph.nodes]
    assert sum(isinstance(op, LayerNorm) for op in ops) == norms
    assert sum(isinstance(op, Attention) for op in ops) == attentions
    rows = {row.name: row for row in measure(source.network, source.graph, source.feeds).rows}
    assert rows["scores"].snr_db > 25


@pytest.mark.parametrize("name, attentions", [
    ("swin-tiny", 4), ("mobilevit-xxs", 3), ("gpt2", 1), ("opt-125m", 1), ("tinyllama-like", 1),
    ("bert-mini", 1), ("minilm-l6", 1),
])
def test_are_read(name, attentions):
    source = read(name, size=SMALL.get(name, 12), layers=1)
    ops = [node.op for node in source.graph.nodes]
    assert sum(isinstance(op, Attention) for op in ops) == attentions


def test_the_count_is_that_of_the_whole_network():
    entry, photos = zoo.find("bert-mini"), photographs(1, (8, 8))
    with pytest.raises(AssertionError, match="bert-mini has 11170560 parameters, not 5"):
        replace(entry, parameters=5).module(None, photos, 0, 1)
