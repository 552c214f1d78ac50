"""Statistics of zeros: as numpy counts them, in files, and what is computed from them."""

from __future__ import annotations

import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from hwgen.blocks.sparse_conv import SparseConvConfig, even_streams
from hwgen.dse.sparse.statistics import Statistics, layers_of, measure, stated
from hwgen.errors import HwgenError
from hwgen.ir import Conv, Graph, Quantisation, TensorType
from hwgen.sim.amaranth import simulate
from tests.blocks.test_sparse import pruned
from tests.networks import Builder
from tests.typed import of_kind

RELU = Quantisation(0.05, -128)


def network(seed: int = 0, size: int = 8, cin: int = 6) -> Graph:
    """Convolutions with a stride, groups and one tap; dense layers over a frame and a vector."""
    b = Builder((size, size, cin), seed, RELU)
    x = b.conv("image", 8, 3, "first", stride=2, output=RELU)
    x = b.conv(x, 8, 3, "grouped", groups=2, output=RELU)
    x = b.conv(x, 4, 1, "point", output=RELU)
    x = b.gemm(x, 10, "dense")
    b.graph.outputs = [b.gemm(x, 5, "scores")]
    return b.graph


def frames_of(graph: Graph, count: int, density: float = 0.5, seed: int = 0) -> dict:
    """Frames of which each channel has a density of its own, the more the further right."""
    ((name, type),) = graph.inputs.items()
    random = np.random.default_rng(seed)
    shape = (count, *type.shape)
    share = density * random.uniform(0.3, 1.7, type.channels)
    share = share * np.linspace(0.5, 1.5, type.shape[-2])[:, None]
    values = random.integers(-127, 128, shape)
    return {name: np.where(random.random(shape) < share, values, type.zero_point)}


def one_layer(
    cin: int = 8, cout: int = 8, size: int = 10, pruning: float = 0.0, **options
) -> Graph:
    b = Builder((size, size, cin), 1, RELU)
    b.conv("image", cout, 3, "layer", output=RELU, **options)
    graph, (node,) = Graph(), b.graph.nodes
    op = pruned(node.op, pruning) if pruning and isinstance(node.op, Conv) else node.op
    graph.add(op, graph.add_input("image", TensorType((size, size, cin), RELU)), name="layer")
    graph.outputs = ["layer"]
    return graph


def config_of(graph: Graph, lanes: int, taps: int, pe: int, k: int, **options) -> SparseConvConfig:
    op, tensor = layers_of(graph)["layer"]
    return SparseConvConfig(op=op, tensor=tensor, channel_lanes=lanes, tap_lanes=taps, pe=pe,
                            **{"streams": even_streams(lanes * taps, k), **options})


# What is measured

def test_measured_like_numpy() -> None:
    graph = network()
    frames = frames_of(graph, 3)
    found = measure(graph, frames)
    assert list(found.layers) == ["first", "grouped", "point", "dense", "scores"]
    values = graph.evaluate(frames, keep=[n.inputs[0] for n in graph.nodes])
    for node in graph.nodes:
        layer, x = found[node.name], values[node.inputs[0]]
        alive = x != graph.types[node.inputs[0]].zero_point
        views = np.stack(layer.op.window.views(alive, 0), -2)
        views = views.reshape(-1, layer.op.window.taps, alive.shape[-1])
        np.testing.assert_allclose(layer.density, views.mean(0), rtol=1e-6)
        np.testing.assert_array_equal(layer.bits, views)
        np.testing.assert_array_equal(layer.frames, np.repeat(range(3), layer.windows))
        assert layer.mean_density == pytest.approx(views.mean())


def test_sample_is_of_runs() -> None:
    """Of many windows, those that are kept follow each other, and all frames have some."""
    graph = one_layer(size=20)
    frames = frames_of(graph, 3)
    layer = measure(graph, frames, samples=160)["layer"]
    whole = measure(graph, frames, samples=10_000)["layer"]
    assert len(whole.places) == 1200
    assert len(layer.places) == 160
    np.testing.assert_array_equal(layer.bits, whole.bits[layer.places])
    assert (np.diff(layer.places) == 1).sum() >= 150
    assert set(layer.frames) == {0, 1, 2}
    np.testing.assert_array_equal(layer.density, whole.density)
    again = measure(graph, frames, samples=160, seed=1)["layer"]
    assert (again.places != layer.places).any()


def test_histogram_average_correlation() -> None:
    graph = one_layer()
    layer = measure(graph, frames_of(graph, 2))["layer"]
    beats = layer.bits.reshape(-1, 3, 3, 2, 4).swapaxes(2, 3).reshape(-1, 12)
    np.testing.assert_array_equal(layer.histogram(4, 3), np.bincount(beats.sum(1), minlength=13))
    assert layer.histogram(5, 2).sum() == len(layer.places) * 2 * 5
    np.testing.assert_allclose(layer.correlation(4, 3), np.corrcoef(beats.T), atol=1e-4)
    means = layer.bits.mean((1, 2))
    wanted = [means[k : k + 7].mean() for k in range(len(means) - 6)]
    np.testing.assert_allclose(layer.moving_average(7), wanted, rtol=1e-5)
    with pytest.raises(HwgenError, match=r"Layer 'layer': no run of 300 windows was sampled$"):
        layer.moving_average(300)


def test_constant_streams_have_no_correlation() -> None:
    layer = stated(one_layer(), 1.0)["layer"]
    assert not layer.correlation(2, 1).any()


# Files

def test_file(tmp_path) -> None:
    graph = network()
    found = measure(graph, frames_of(graph, 2), samples=20)
    found.save(tmp_path / "s.npz")
    again = Statistics.load(tmp_path / "s.npz", graph)
    assert again.source == "2 frames"
    for name, layer in found.layers.items():
        other = again[name]
        for what in ("density", "sample", "places"):
            np.testing.assert_array_equal(getattr(other, what), getattr(layer, what))
        assert other.mean_density == layer.mean_density


def test_of_another_network(tmp_path) -> None:
    graph = network()
    path = tmp_path / "s.npz"
    measure(graph, frames_of(graph, 2)).save(path)
    with pytest.raises(HwgenError, match=r"statistics of another network: layer 'first' differs$"):
        Statistics.load(path, network(seed=1))
    changed = Graph()
    changed.add_input("image", graph.inputs["image"])
    for node in graph.nodes:
        op = node.op
        if node.name == "grouped":
            conv = of_kind(op, Conv)
            op = replace(conv, bias=conv.bias + 1)
        changed.add(op, *node.inputs, name=node.name)
    # What comes behind it has other zeros, too; the first is named.
    with pytest.raises(HwgenError, match=r"layer 'grouped' differs$"):
        Statistics.load(path, changed)
    with pytest.raises(HwgenError, match=r"layer 'layer' is missing$"):
        Statistics.load(path, one_layer())
    less = Graph()
    less.add_input("image", graph.inputs["image"])
    less.add(graph.nodes[0].op, "image", name="first")
    with pytest.raises(HwgenError, match=r"it has no layer 'grouped'$"):
        Statistics.load(path, less)


def test_damaged_files(tmp_path) -> None:
    graph = one_layer()
    path = tmp_path / "s.npz"
    with pytest.raises(HwgenError, match=r"s\.npz cannot be read: No such file"):
        Statistics.load(path, graph)
    measure(graph, frames_of(graph, 2)).save(path)
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(HwgenError, match=r"is not a file of statistics"):
            Statistics.load(path, graph)
    path.write_bytes(whole)
    with np.load(path) as archive:
        arrays = dict(archive)
    for change in ({"sample_0": arrays["sample_0"][:-1]}, {"places_0": arrays["places_0"][:-1]},
                   {"density_0": arrays["density_0"][1:]}):
        np.savez(path, **(arrays | change))
        with pytest.raises(HwgenError, match=r"layer 'layer' is damaged$"):
            Statistics.load(path, graph)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("nothing", "")
    with pytest.raises(HwgenError, match=r"is not a file of statistics"):
        Statistics.load(path, graph)


# Refusals

def test_one_frame_is_warned_of() -> None:
    graph = one_layer()
    with pytest.warns(UserWarning, match=r"measured with one frame only"):
        measure(graph, frames_of(graph, 1))


def test_refusals() -> None:
    graph = one_layer()
    layer = measure(graph, frames_of(graph, 2))["layer"]
    for call, message in (
        (lambda: measure(graph, {}), r"There must be a frame to measure with, or more"),
        (lambda: measure(graph, frames_of(graph, 0)), r"There must be a frame"),
        (lambda: measure(graph, {"image": np.zeros((2, 3, 3, 8), int)}),
         r"Input 'image' must have shape"),
        (lambda: measure(graph, frames_of(graph, 2), samples=0), r"Samples must be 1 or more"),
        (lambda: stated(graph, 0.5)["other"], r"There are no statistics of layer 'other'"),
        (lambda: stated(graph, {"other": 0.5}), r"The network has no convolution 'other'"),
        (lambda: stated(graph, 1.5), r"Density of 'layer' must be between 0 and 1, not 1\.5"),
        (lambda: layer.balanced(4, 3, 13), r"Multipliers must be between 1 and 12, not 13"),
        (lambda: layer.balanced(9, 3, 4), r"Layer 'layer': Channel lanes must be between 1 and 8"),
        (lambda: layer.cycles(4, 10, 1, ((0,),)), r"Layer 'layer': Tap lanes must be between 1"),
        (lambda: layer.cycles(4, 3, 9, ((0,),)), r"Layer 'layer': Pe must be between 1 and 8"),
        (lambda: layer.cycles(4, 3, 1, even_streams(11, 2)), r"Streams must be 12, not"),
        (lambda: layer.cycles(1, 2, 1, ((0,), (0,))), r"Streams must be divided among"),
        (lambda: layer.cycles(1, 1, 1, ((0,),), "none"), r"Skip must be one of activation"),
        (lambda: layer.depth_for(config_of(graph, 4, 3, 4, 6), 1.0), r"Stall must be between 0"),
        (lambda: layer.exact_cycles(config_of(one_layer(cin=4), 4, 3, 4, 6)),
         r"Statistics of layer 'layer' are of another convolution"),
    ):
        with pytest.raises(HwgenError, match=f"^{message}"):
            call()


# What is computed

@pytest.mark.parametrize("skip", ["activation", "weight", "both"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("lanes, taps, pe, k", [(4, 3, 4, 5), (3, 2, 3, 2), (1, 1, 1, 1)])
def test_work_and_cycles(skip: str, groups: int, lanes: int, taps: int, pe: int, k: int) -> None:
    """Beats are those of the frames; the quick number of cycles is nearly the exact one."""
    graph = one_layer(8, 8, 8, 0.6 if skip != "activation" else 0.0, groups=groups)
    frames = frames_of(graph, 2, 0.6)
    layer = measure(graph, frames)["layer"]
    config = config_of(graph, lanes if groups == 1 else min(lanes, 4), taps, pe, k, skip=skip)
    np.testing.assert_array_equal(layer.work(config), config.work(frames["image"]))
    exact = config.mean_cycles(frames["image"])
    assert layer.exact_cycles(config) == exact
    quick = layer.cycles(config.channel_lanes, taps, pe, config.streams, skip, lanes_out=1)
    assert quick == pytest.approx(exact, rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("density", [0.2, 0.5, 0.8])
def test_cycles_beside_simulation(density: float) -> None:
    graph = one_layer(8, 4, 6)
    frames = frames_of(graph, 2, density)["image"]
    layer = measure(graph, {"image": frames})["layer"]
    config = replace(config_of(graph, 4, 1, 2, 2), streams=layer.balanced(4, 1, 2)).at_full_speed()
    run = simulate(config.create(), frames)
    folds = len(frames) * config.window.windows * len(config.fold_results)
    took = (run.times["o"][-1] - run.times["o"][0]) / (folds - 1)
    assert layer.exact_cycles(config) == pytest.approx(took, rel=0.03)
    assert layer.cycles(4, 1, 2, config.streams, lanes_out=1) == pytest.approx(took, rel=0.03)


@pytest.mark.parametrize("skip", ["activation", "weight", "both"])
@pytest.mark.parametrize("lanes, taps, k", [(8, 3, 5), (8, 9, 36), (4, 1, 2), (2, 1, 2), (3, 3, 9)])
def test_balance_is_never_worse(skip: str, lanes: int, taps: int, k: int) -> None:
    graph = one_layer(pruning=0.0 if skip == "activation" else 0.5)
    layer = measure(graph, frames_of(graph, 2))["layer"]
    streams = layer.balanced(lanes, taps, k, skip=skip, pe=4)
    config = config_of(graph, lanes, taps, 4, k, skip=skip)

    def most(config: SparseConvConfig) -> float:
        work = layer.work(config).sum(1).max(-1)
        return float(np.maximum(work, config.window.steps).mean())

    assert most(replace(config, streams=streams)) <= most(config)
    assert streams == layer.balanced(lanes, taps, k, skip=skip, pe=4)


def test_balance_helps() -> None:
    """Channels that are always zero go to a multiplier that has others, too."""
    graph = one_layer()
    frames = frames_of(graph, 2, 1.0)
    frames["image"][..., ::2] = -128
    layer = measure(graph, frames)["layer"]
    assert layer.cycles(4, 1, 8, even_streams(4, 2)) > 22
    # No more than the beats of a fold.
    assert layer.cycles(4, 1, 8, layer.balanced(4, 1, 2)) == 18


def test_depth() -> None:
    """The shortest queue that loses no more than allowed; the usual one loses little."""
    graph = one_layer(size=12)
    layer = measure(graph, frames_of(graph, 2, 0.55))["layer"]
    config = config_of(graph, 4, 1, 8, 2)
    loose, tight = (layer.depth_for(config, stall, 200) for stall in (0.1, 0.01))
    assert config.window.steps <= loose.queue <= tight.queue
    for depth, stall in ((loose, 0.1), (tight, 0.01)):
        assert depth.lost <= stall
        assert depth.cycles == layer.exact_cycles(config, 200, depth.queue)
        before = layer.exact_cycles(config, 200, depth.queue - 1)
        assert depth.queue == config.window.steps or 1 - depth.endless / before > stall


def test_intervals_of_frames() -> None:
    """Frames that are denser take longer; the median is that of the frames."""
    graph = one_layer(size=10)
    parts = [frames_of(graph, 1, density, seed=3)["image"] for density in (0.5, 0.6, 0.7)]
    frames = np.concatenate(parts)
    layer = measure(graph, {"image": frames})["layer"]
    low, median, high = layer.interval(4, 1, 8, even_streams(4, 1))
    config = config_of(graph, 4, 1, 8, 1, lanes_out=8)
    exact = [config.mean_cycles(part) * layer.windows for part in parts]
    assert low < median < high
    assert median == pytest.approx(exact[1], rel=0.03)


def test_stated() -> None:
    layers = stated(network(), {"first": 0.3, "point": 0.0}).layers
    assert layers["first"].sample.mean() == pytest.approx(0.3, abs=0.01)
    assert not layers["point"].sample.any()
    assert layers["grouped"].sample.all()


def test_is_quick() -> None:
    """The search asks for many foldings of a layer."""
    layer = stated(one_layer(128, 128, 8), 0.5)["layer"]
    begin = time.perf_counter()
    ways = [(lanes, taps, even_streams(lanes * taps, lanes * taps // n))
            for lanes in (2, 4, 8, 16) for taps in (1, 3, 9) for n in (1, 2)]
    for lanes, taps, streams in ways:
        layer.cycles(lanes, taps, 16, streams)
    assert (time.perf_counter() - begin) / len(ways) < 0.1
