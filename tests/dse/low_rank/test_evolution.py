"""Evolution over decompositions: what it finds, that it goes on, and what its models learn."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from hwgen.dse.low_rank.evolution import Loss, Space, Work, evolve, stage_work
from hwgen.dse.low_rank.problem import Problem
from hwgen.dse.low_rank.ways import LayerChoice, ways
from hwgen.dse.tradeoff.front import Front, Hardware
from hwgen.dse.tradeoff.judge import Judge
from hwgen.errors import HwgenError
from hwgen.ir import Conv, Graph
from hwgen.models.compression import lowrank
from hwgen.models.compression.decomposition import Decomposition, cost
from tests.models.float_networks import N, constants_of, network, noise

pytestmark = pytest.mark.network

SENSITIVITY = {"one": 1.0, "two": 1.0, "three": 1.0}


def _weights() -> dict[str, np.ndarray]:
    """Of low rank, but for a rest: little of the first layer, more of the last."""
    found = {}
    for k, (name, (cout, cin)) in enumerate({"u": (16, 4), "v": (16, 16), "w": (24, 16)}.items()):
        parts = constants_of(seed=k, a=(3, cout, 1), b=(3, cin, 9), rest=(cout, cin, 3, 3))
        low = np.einsum("rfi,rck->fck", parts["a"], parts["b"]).reshape(cout, cin, 3, 3)
        found[name] = (low / low.std() * 0.08 + (0.1 + 0.15 * k) * parts["rest"]).astype(np.float32)
    return found


NET = network(
    [N("Conv", ["x", "u"], ["a"], name="one", pads=[1] * 4), N("Relu", ["a"], ["b"]),
     N("Conv", ["b", "v"], ["c"], name="two", pads=[1] * 4), N("Relu", ["c"], ["d"]),
     N("Conv", ["d", "w"], ["y"], name="three", pads=[1] * 4)],
    _weights(), {"x": (1, 4, 6, 6)})
FRAMES = noise(NET, 4)
CPD = lowrank.cpd
CPDS: dict[tuple, list[np.ndarray]] = {}


def hardware(graph: Graph) -> Hardware:
    """32 DSPs with two products each, one in layers with groups; each layer takes one of them."""
    convs = [node.op for node in graph.nodes if isinstance(node.op, Conv)]
    products = sum(op.weight.size * 36 / (1 if op.groups > 1 else 2) for op in convs)
    return Hardware(round(products / (32 - len(convs))), 32)


def outputs(graph: Graph) -> np.ndarray:
    """What an integer graph makes of the frames."""
    ((name, type),) = graph.inputs.items()
    codes = type.quantisation.quantise(
        np.concatenate([feed[name] for feed in FRAMES]).transpose(0, 2, 3, 1))
    (output,) = graph.outputs
    return graph.types[output].quantisation.dequantise(graph.evaluate({name: codes})[output])


WANTED = outputs(Problem(NET, FRAMES, lambda _: 0.0, hardware).graph({}))


def problem() -> tuple[Problem, list[Graph]]:
    """The accuracy is how near the outputs are to those of the network as it is."""
    asked: list[Graph] = []

    def accuracy(graph: Graph) -> float:
        asked.append(graph)
        found = outputs(graph)
        return 1 - float(np.square(found - WANTED).mean() / np.square(WANTED).mean())

    return Problem(NET, FRAMES, accuracy, hardware), asked


def offered() -> dict[str, list[LayerChoice]]:
    return {name: [*ways(layer, schemes=("cpd",), ranks=2)[:-1],
                   *ways(layer, schemes=("svd_spatial", "svd_first"), ranks=4)]
            for name, layer in problem()[0].layers.items()}


@pytest.fixture(autouse=True)
def _each_cpd_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPDs take the most time by far."""
    def cached(tensor: np.ndarray, rank: int, seed: int = 0) -> list[np.ndarray]:
        key = tensor.tobytes(), rank, seed
        if key not in CPDS:
            CPDS[key] = CPD(tensor, rank, seed)
        return CPDS[key]

    monkeypatch.setattr(lowrank, "cpd", cached)


def search(judge: Judge, **options) -> Front:
    return evolve(judge, offered(), **{
        "trials": 20, "loss": 0.1, "population": 24, "generations": 8, "batch": 2,
        "sensitivity": SENSITIVITY, **options})


def area(front: Front, loss: float) -> float:
    """What the points beat: of losses up to some, and of the logarithm of frames a DSP."""
    total, low = 0.0, 0.0
    for point in sorted(front.points, key=lambda p: (-p.accuracy, p.interval)):
        lost = max(front.reference.accuracy - point.accuracy, 0) / loss
        gain = np.log(point.efficiency / front.reference.efficiency)
        if lost < 1 and gain > low:
            total, low = total + (1 - lost) * (gain - low), gain
    return total


def test_deterministic_and_goes_on(tmp_path: Path):
    """The same arguments give the same front, also when the search was stopped on the way."""
    given, asked = problem()
    whole = search(Judge(given, tmp_path / "whole.jsonl"))
    assert len(asked) == 21
    assert whole.reference in (*whole.points, *whole.others)
    assert len(whole.points) + len(whole.others) == 21
    assert whole.meta["search"] == "evolution"

    def stop(line: str) -> None:
        if line.startswith("11 of"):
            raise KeyboardInterrupt

    path = tmp_path / "stopped.jsonl"
    with pytest.raises(KeyboardInterrupt):
        search(Judge(problem()[0], path), progress=stop)
    # The last line was not written in full.
    path.write_text(path.read_text()[:-10])
    given, asked = problem()
    assert search(Judge(given, path)) == whole
    assert len(asked) == 20 - 10
    assert search(Judge(problem()[0], path)) == whole
    assert path.read_text() == (tmp_path / "whole.jsonl").read_text()
    other = search(Judge(problem()[0]), seed=1)
    assert {str(p.choice) for p in other.points} != {str(p.choice) for p in whole.points}


def test_beats_chance():
    """Against as many choices at random, each with its chance to decompose little or much."""
    judge = Judge(problem()[0])
    found = area(search(judge, trials=24), 0.1)
    space = Space.of(judge, offered(), SENSITIVITY)
    for seed in range(2):
        random = np.random.default_rng(seed)
        other = Judge(problem()[0])
        while len(other.points) < 25:
            depth = random.uniform(0.1, 1)
            other(space.choice(tuple(int(min(n - 1, n * depth * random.uniform(0.5, 1.5)))
                                     for n in map(len, space.ways.values()))))
        assert found > 1.1 * area(other.front(), 0.1)


def test_models_learn():
    """With more points, what was not judged is predicted better."""
    judge = Judge(problem()[0])
    space = Space.of(judge, offered(), SENSITIVITY)
    random = np.random.default_rng(0)
    sizes = [len(some) for some in space.ways.values()]
    people = np.vstack([space.whole, random.integers(0, sizes, (40, len(sizes)))])
    points = [judge(space.choice(tuple(row))) for row in people.tolist()]
    work, lost = space.work_of(people), space.lost_of(people)
    costs = np.array([p.interval * p.dsp for p in points], float)
    losses = np.array([points[0].accuracy - p.accuracy for p in points])
    off_cost, off_loss = [], []
    for count in (1, 4, 20):
        off = np.log(Work(work[:count], costs[:count])(work) / costs)
        off_cost.append(float(np.sqrt(np.square(off[20:]).mean())))
        off = Loss(lost[:count], losses[:count], 0.05)(lost) - losses
        off_loss.append(float(np.abs(off[20:] / (losses[20:] + 0.05)).mean()))
    assert off_cost[2] < 0.5 * off_cost[0]
    assert off_cost[2] < 0.05
    assert off_loss[2] < off_loss[1] < off_loss[0]


def test_stage_work():
    """It counts what costs count, with layers in groups apart."""
    layer = problem()[0].layers["three"]
    whole = stage_work(layer)
    assert whole.tolist() == [24 * 16 * 9 * 36, 0, 24 * 36, 1]
    for scheme, layers in (("svd_spatial", 2), ("svd_first", 2), ("cpd", 4)):
        choice = Decomposition(scheme, 4)
        work = stage_work(layer, choice)
        assert work[:2].sum() == cost(layer, choice).macs
        assert work[3] == layers
        assert work[1] == (2 * 4 * 3 * 36 if scheme == "cpd" else 0)


def test_all_of_a_small_space():
    """A search ends when everything was judged."""
    few = {name: [some[k] for k in (2, 6)] for name, some in offered().items() if name != "one"}
    judge = Judge(problem()[0])
    evolve(judge, few, trials=50, sensitivity=SENSITIVITY)
    assert len(judge.points) == 9
    keys = {str(point.choice) for point in judge.points.values()}
    kinds = [[None, *(way.decomposition for way in some)] for some in few.values()]
    assert len(keys) == len(list(itertools.product(*kinds)))


def test_what_cannot_be_built(tmp_path: Path):
    """It is passed over, once; the search goes on, unless nothing can be built."""
    path = tmp_path / "journal.jsonl"
    asked = []

    def small(most: int):
        def made(graph: Graph) -> Hardware:
            asked.append(graph)
            if len(graph.nodes) > most:
                raise HwgenError("too small for this network")
            return hardware(graph)

        given, _ = problem()
        return Problem(NET, FRAMES, given.accuracy, made)

    lines: list[str] = []
    front = search(Judge(small(6), path), trials=12, progress=lines.append)
    assert any("too small" in line for line in lines)
    count = len(asked)
    assert count == 13
    assert len(front.points) + len(front.others) < 13
    assert search(Judge(small(6), path), trials=12) == front
    assert len(asked) == count
    with pytest.raises(HwgenError, match=r"No choice can be built: too small"):
        search(Judge(small(3)), trials=2)


def test_errors():
    judge = Judge(problem()[0])
    for options, message in (
        ({"trials": 0}, "Trials must be an integer of 1 or more, not 0"),
        ({"population": 2.5}, "Population must be an integer of 4 or more, not 2.5"),
        ({"generations": 0}, "Generations must be"), ({"batch": 0}, "Batch must be"),
        ({"seed": -1}, "Seed must be"), ({"loss": 0.0}, "Loss must be above 0, not 0.0"),
    ):
        with pytest.raises(HwgenError, match=message):
            search(judge, **options)
    with pytest.raises(HwgenError, match="No layer can become smaller"):
        evolve(judge, {"one": [LayerChoice.of(judge.problem.layers["one"])]})
    with pytest.raises(HwgenError, match="Layer 'four' is unknown"):
        evolve(judge, {"four": []})
