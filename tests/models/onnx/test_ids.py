"""Ids: embeddings as files write them, inputs that are fixed, and what is refused."""

import json
import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwgen.design import DesignPoint
from hwgen.errors import HwgenError, HwgenWarning
from hwgen.flow import Options, build
from hwgen.ir import Embedding
from hwgen.models.host.inputs import described, load, save
from hwgen.models.host.model import input_name
from hwgen.models.load import read
from hwgen.models.onnx.ids import fixed_values
from hwgen.models.onnx.session import session
from hwgen.plan import plan
from hwgen.run import Accelerator

N = helper.make_node
RANDOM = np.random.default_rng(0)
TOKENS, ROWS, WIDTH = 6, 40, 8
TABLE = RANDOM.normal(size=(ROWS, WIDTH)).astype(np.float32)
WEIGHT = RANDOM.normal(size=(WIDTH, 12)).astype(np.float32)
GATHER = N("Gather", ["table", "ids"], ["e"])
LAST = N("MatMul", ["e", "w"], ["y"])
FLAT = {"shape": np.array([1, TOKENS, 1])}
HOT = {"line": np.arange(ROWS).reshape(1, 1, ROWS), "depth": np.array([ROWS]),
       "ends": np.array([0, 1], np.float32)}


def file(tmp_path, nodes, inputs=None, opset=17, **constants):
    """A file whose inputs are ``ids``, or those that are given, as name to (kind, shape)."""
    values = {"table": TABLE, "w": WEIGHT, **constants}
    used = {i for node in nodes for i in node.input}
    inputs = inputs or {"ids": (TensorProto.INT64, (1, TOKENS))}
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(n, *given) for n, given in inputs.items()],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items() if k in used])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    path = tmp_path / "net.onnx"
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def compared(path, others=None, **options):
    """Source of a file, and the decibels of its outputs for frames of random ids."""
    source = read(str(path), **options)
    plan(source.graph, DesignPoint())
    frames = source.frames(3)
    codes, host = source.graph.evaluate(frames), session(source.host)
    whole = onnx.load(path)
    kinds = {v.name: helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)
             for v in whole.graph.input}
    run, signal, noise = session(whole), 0.0, 0.0
    for k in range(3):
        feed = dict(others or {})
        for each in described(source.graph, source.network):
            real = each.type.quantisation.dequantise(frames[each.stream][k])
            feed[each.name] = real.reshape(each.shape)
        want, = run.run(["y"], {n: v.astype(kinds[n]) for n, v in feed.items()})
        got, = host.run(["y"], {input_name(n): v[k : k + 1] for n, v in codes.items()})
        want, got = np.asarray(want), np.asarray(got)
        assert want.shape == got.shape
        signal += np.square(want.astype(np.float64)).sum()
        noise += np.square(want.astype(np.float64) - got).sum()
    return source, 10 * np.log10(signal / max(noise, 1e-30))


def tables(source):
    """The embeddings of a graph."""
    return [node.op for node in source.graph.nodes if isinstance(node.op, Embedding)]


def cast(name, out, kind):
    return N("Cast", [name], [out], to=kind)


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
def test_rows_of_a_table(tmp_path, kind):
    path = file(tmp_path, [GATHER, LAST], {"ids": (kind, (1, TOKENS))})
    source, decibels = compared(path)
    (op,) = tables(source)
    assert op.rows.shape == (ROWS, WIDTH)
    assert decibels > 35
    assert source.graph.inputs["ids"].shape == (TOKENS, 1)
    assert source.graph.inputs["ids"].quantisation == Embedding.ids(ROWS)


FORMS = {
    "OneHot": ([N("OneHot", ["ids", "depth", "ends"], ["h"]), N("MatMul", ["h", "table"], ["e"])],
               ROWS),
    "Equal": ([N("Reshape", ["ids", "shape"], ["i"]), N("Equal", ["i", "line"], ["q"]),
               cast("q", "h", TensorProto.FLOAT), N("MatMul", ["h", "table"], ["e"])], ROWS),
    "Equal turned": ([N("Reshape", ["ids", "shape"], ["i"]), N("Equal", ["line", "i"], ["q"]),
                      cast("q", "h", TensorProto.FLOAT), N("MatMul", ["h", "table"], ["e"])], ROWS),
    "biased": ([N("Gather", ["table", "ids"], ["g"]), N("Add", ["g", "b"], ["s"]),
                N("Sigmoid", ["s"], ["t"]), N("Mul", ["s", "t"], ["e"])], ROWS),
    "cast": ([cast("ids", "i", TensorProto.INT32), cast("i", "j", TensorProto.INT64),
              N("Gather", ["table", "j"], ["e"])], ROWS),
    "shifted": ([N("Add", ["ids", "two"], ["i"]), N("Gather", ["table", "i"], ["e"])], ROWS - 2),
    "clipped": ([N("Clip", ["ids", "low", "high"], ["i"]), N("Gather", ["table", "i"], ["e"])],
                1 << 16),
    "normal": ([N("Gather", ["table", "ids"], ["g"]),
                N("LayerNormalization", ["g", "b", "c"], ["e"])], ROWS),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_become_one_table(tmp_path, form):
    nodes, count = FORMS[form]
    path = file(
        tmp_path, [*nodes, LAST], **FLAT, **HOT, two=np.array(2), low=np.array(3),
        high=np.array(30), b=RANDOM.normal(size=WIDTH).astype(np.float32),
        c=RANDOM.normal(size=WIDTH).astype(np.float32))
    source, decibels = compared(path)
    (op,) = tables(source)
    assert len(op.rows) == count
    assert decibels > 35
    # Nothing stands between the table and the matrix product.
    assert len([n for n in source.graph.nodes if n.op.macs(source.graph.types[n.inputs[0]])]) == 1


def test_two_readers_of_rows_keep_them(tmp_path):
    nodes = [GATHER, N("Sigmoid", ["e"], ["s"]), N("MatMul", ["e", "w"], ["p"]),
             N("MatMul", ["s", "w"], ["q"]), N("Add", ["p", "q"], ["y"])]
    source, decibels = compared(file(tmp_path, nodes))
    assert len(tables(source)) == 1
    assert decibels > 30


def test_places_are_constants(tmp_path):
    places = RANDOM.normal(size=(64, WIDTH)).astype(np.float32)
    nodes = [N("Gather", ["table", "ids"], ["g"]), N("Gather", ["places", "where"], ["p"]),
             N("Add", ["g", "p"], ["e"]), LAST]
    source, decibels = compared(
        file(tmp_path, nodes, places=places, where=np.arange(TOKENS)[None]))
    assert len(tables(source)) == 1
    assert decibels > 35


MASKED = {"ids": (TensorProto.INT64, (1, TOKENS)),
          "attention_mask": (TensorProto.INT64, (1, TOKENS)),
          "token_type_ids": (TensorProto.INT64, (1, TOKENS))}
WITH_MASK = [N("Gather", ["table", "ids"], ["g"]), N("Gather", ["types", "token_type_ids"], ["t"]),
             N("Add", ["g", "t"], ["s"]), cast("attention_mask", "m", TensorProto.FLOAT),
             N("Unsqueeze", ["m", "axis"], ["n"]), N("Mul", ["s", "n"], ["e"]), LAST]
TYPES = {"types": RANDOM.normal(size=(2, WIDTH)).astype(np.float32), "axis": np.array([2])}


def test_usual_inputs_are_fixed_with_a_warning(tmp_path):
    path = file(tmp_path, WITH_MASK, MASKED, **TYPES)
    others = {"attention_mask": np.ones((1, TOKENS)), "token_type_ids": np.zeros((1, TOKENS))}
    with (pytest.warns(HwgenWarning, match="'attention_mask' is taken to be 1 everywhere"),
          pytest.warns(HwgenWarning, match="'token_type_ids' is taken to be 0 everywhere")):
        source, decibels = compared(path, others)
    assert list(source.graph.inputs) == ["ids"]
    assert decibels > 35
    # The row of the type is in the table.
    assert len(tables(source)) == 1
    assert source.graph.meta["fixed"] == ["attention_mask=1", "token_type_ids=0"]


def test_inputs_are_fixed_as_the_user_says(tmp_path):
    path = file(tmp_path, WITH_MASK, MASKED, **TYPES)
    others = {"attention_mask": np.ones((1, TOKENS)), "token_type_ids": np.ones((1, TOKENS))}
    with warnings.catch_warnings():
        warnings.simplefilter("error", HwgenWarning)
        _, decibels = compared(path, others, fix=["attention_mask=1", "token_type_ids=1"])
    assert decibels > 35
    kept, decibels = compared(path, {"attention_mask": np.ones((1, TOKENS))},
                              fix=["attention_mask=1", "token_type_ids=input"])
    assert list(kept.graph.inputs) == ["ids", "token_type_ids"]
    assert decibels > 30
    assert len(tables(kept)) == 2


def test_places_as_an_input(tmp_path):
    inputs = {"ids": (TensorProto.INT64, (1, TOKENS)),
              "where": (TensorProto.INT64, (1, TOKENS))}
    nodes = [N("Gather", ["table", "ids"], ["g"]), N("Gather", ["places", "where"], ["p"]),
             N("Add", ["g", "p"], ["e"]), LAST]
    places = RANDOM.normal(size=(64, WIDTH)).astype(np.float32)
    path = file(tmp_path, nodes, inputs, places=places)
    source, decibels = compared(path, {"where": np.arange(TOKENS)[None]}, fix=["where=range"])
    assert len(tables(source)) == 1
    assert decibels > 35


def test_padding_is_not_counted(tmp_path):
    places = RANDOM.normal(size=(64, WIDTH)).astype(np.float32)
    nodes = [N("Equal", ["ids", "pad"], ["q"]), N("Not", ["q"], ["n"]),
             cast("n", "m", TensorProto.INT64), N("CumSum", ["m", "one"], ["c"]),
             N("Gather", ["places", "c"], ["p"]), N("Gather", ["table", "ids"], ["g"]),
             N("Add", ["g", "p"], ["e"]), LAST]
    path = file(tmp_path, nodes, places=places, pad=np.array(ROWS + 1), one=np.array(1))
    with pytest.warns(HwgenWarning, match=f"id {ROWS + 1} stands for padding"):
        source, decibels = compared(path)
    assert len(tables(source)) == 1
    assert decibels > 25


def test_open_number_of_tokens_is_the_size(tmp_path):
    path = file(tmp_path, [GATHER, LAST], {"ids": (TensorProto.INT64, (None, None))})
    with pytest.raises(HwgenError, match="no fixed extent in dimension 1: give a size"):
        read(str(path))
    source, decibels = compared(path, size=9)
    assert source.graph.inputs["ids"].shape == (9, 1)
    assert decibels > 35


@pytest.mark.parametrize("text, message", [
    ("mask", "^Inputs are fixed by name=value, each once, not by 'mask'"),
    ("mask=no", "^An input is fixed to a number, 'range' or 'input', not to 'no'"),
    ("mask=nan", "^An input is fixed to a number"),
])
def test_texts_of_fixed_inputs(text, message):
    with pytest.raises(HwgenError, match=message):
        fixed_values([text])
    assert fixed_values(["a=1", "b/c:0=range"]) == {"a": "1", "b/c:0": "range"}
    with pytest.raises(HwgenError, match="each once"):
        fixed_values(["a=1", "a=2"])


def test_what_is_refused(tmp_path):
    path = file(tmp_path, [GATHER, LAST])
    with pytest.raises(HwgenError, match="has no input 'mask' that could be fixed; its inputs are "
                                         "'ids'"):
        read(str(path), fix=["mask=1"])
    with pytest.raises(HwgenError, match="no input is left that is not fixed"):
        read(str(path), fix=["ids=1"])
    with pytest.raises(HwgenError, match="whose inputs are not fixed"):
        read("resnet8", fix=["image=0"])
    large = file(tmp_path, [N("Gather", ["large", "ids"], ["e"]), LAST],
                 large=np.zeros(((1 << 16) + 1, WIDTH), np.float32))
    with pytest.raises(HwgenError, match="an embedding of 65537 rows is not supported, because ids "
                                         "have at most 16 bits"):
        read(str(large))
    turned = file(tmp_path, [N("Gather", ["table", "ids"], ["g"], axis=1),
                             N("Transpose", ["g"], ["e"], perm=[1, 2, 0]),
                             N("MatMul", ["e", "v"], ["y"])],
                  v=RANDOM.normal(size=(ROWS, 5)).astype(np.float32))
    with pytest.raises(HwgenError, match="chosen along its first axis alone"):
        read(str(turned))
    counted = file(tmp_path, [N("Equal", ["ids", "two"], ["q"]),
                              cast("q", "f", TensorProto.FLOAT), N("MatMul", ["f", "v"], ["y"])],
                   two=np.array(2), v=RANDOM.normal(size=(TOKENS, 5)).astype(np.float32))
    with pytest.raises(HwgenError, match="'ids' is of whole numbers, but chooses no rows"):
        read(str(counted))


def test_ids_travel_with_a_build(tmp_path):
    source = read(str(file(tmp_path, [GATHER, LAST])))
    inputs = described(source.graph, source.network)
    save(inputs, tmp_path / "pre.json")
    assert load(tmp_path / "pre.json") == inputs
    (given,) = inputs
    ids = RANDOM.integers(0, ROWS, (3, TOKENS))
    assert np.array_equal(given.codes(ids)[..., 0] - given.type.quantisation.low, ids)
    with pytest.raises(HwgenError, match=f"takes integers 0 to {ROWS - 1}, not"):
        given.codes(ids + ROWS)
    source.graph.save(tmp_path / "graph.npz")
    for name in ("pre.json", "none.json"):
        again = read(str(tmp_path / "graph.npz")).frames(4)["ids"]
        assert again.min() < -4, name
        assert again.max() < ROWS + given.type.quantisation.low, name
        (tmp_path / "pre.json").unlink(missing_ok=True)


def test_ids_of_a_file_calibrate(tmp_path):
    path = file(tmp_path, [GATHER, LAST])
    np.save(tmp_path / "ids.npy", RANDOM.integers(0, ROWS, (5, TOKENS)))
    source = read(str(path), calibration=tmp_path / "ids.npy")
    assert len(source.feeds) == 5
    np.save(tmp_path / "ids.npy", np.full((5, TOKENS), ROWS))
    with pytest.raises(HwgenError, match=f"takes integers 0 to {ROWS - 1}"):
        read(str(path), calibration=tmp_path / "ids.npy")


@pytest.mark.verilator
def test_build_runs_by_reference_verilog_and_float(tmp_path):
    built = build(Options(str(file(tmp_path, [GATHER, LAST])), "zcu104", simulate=2))
    assert built.simulated is not None
    assert built.simulated.mismatches == 0
    built.write(tmp_path / "out")
    accelerator = Accelerator.load(tmp_path / "out")
    ids = RANDOM.integers(0, ROWS, (3, TOKENS))
    made = {way: accelerator.run({"ids": ids}, by=way)["y"]
            for way in ("reference", "verilog", "float")}
    assert np.array_equal(made["reference"], made["verilog"])
    exact = TABLE[ids] @ WEIGHT
    np.testing.assert_allclose(made["float"], exact, atol=1e-5)
    assert np.abs(made["reference"] - exact).max() < np.abs(exact).max() / 20
    assert json.loads((tmp_path / "out" / "report.json").read_text())["interval_cycles"] > 0
