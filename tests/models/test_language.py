"""The benchmarks' language model: its text, its linear layers in float and as integers."""

import math
from itertools import islice

import numpy as np
import pytest
import torch

from benchmarks.language import (
    IntegerLinears,
    LanguageModel,
    Settings,
    board_of,
    calibration,
    integer,
    linear_network,
    perplexity,
    text,
    train,
    windows,
)
from hwgen.dse.design.search import search
from hwgen.models.quantisation.calibrate import probe, statistics

pytestmark = pytest.mark.network

TINY = Settings(width=32, blocks=1, heads=2, context=32, steps=80, batch=8, rate=6e-3)
TOKENS = 16


@pytest.fixture(scope="module")
def model():
    return train(TINY, text().training)


@pytest.fixture(scope="module")
def network(model):
    return linear_network(model, TOKENS)


@pytest.fixture(scope="module")
def feeds(model, network):
    return calibration(model, network, windows(text().training, TINY.context, 16)[:, :-1])


@pytest.fixture(scope="module")
def found(network, feeds):
    return statistics(network, feeds)


@pytest.fixture(scope="module")
def held():
    return windows(text().held, TINY.context, 64)


def test_text_is_divided_by_blocks():
    training, held = text().training, text().held
    assert len(training) > 500_000
    assert len(held) == pytest.approx(len(training) / 9, rel=0.02)
    assert bytes(held[:64]) not in bytes(training)


def test_windows_follow_each_other_or_are_spread():
    data = np.arange(100, dtype=np.uint8)
    all_of_it = windows(data, 9)
    assert all_of_it.shape == (11, 10)
    assert all_of_it[:, 1:].ravel().tolist() == list(range(1, 100))
    spread = windows(data, 9, 3)
    assert spread[:, 0].tolist() == [0, 45, 90]
    assert (np.diff(spread) == 1).all()


def test_training_repeats_and_learns(model, held):
    few = Settings(**{**vars(TINY), "steps": 3})
    first, second = (train(few, text().training).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert perplexity(model, held) < 0.7 * perplexity(LanguageModel(TINY).eval(), held)


def test_tokens_see_no_later_ones(model, held):
    tokens = torch.from_numpy(held[:2, :-1])
    changed = tokens.clone()
    changed[:, 20:] = 7
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[:, :20], model(changed)[:, :20])


def test_network_is_the_linear_layers(model, network, feeds):
    assert network.inputs == list(model.segments)
    assert {"block0/qkv", "block0/out", "block0/fc1", "block0/fc2"} <= {
        node.name for node in network.nodes}
    run = probe(network, network.outputs)
    for feed in islice(feeds, 2):
        values = run(feed)
        for segment, output in zip(model.segments, network.outputs, strict=True):
            wanted = model.linear(segment, torch.from_numpy(feed[segment])).detach().numpy()
            np.testing.assert_allclose(values[output], wanted, atol=1e-4)


def test_gradients_pass_through_what_computes_segments(model, held):
    gain = torch.ones((), requires_grad=True)
    tokens = torch.from_numpy(held[:2])
    model(tokens[:, :-1], lambda name, x: gain * model.linear(name, x)).square().mean().backward()
    assert gain.grad is not None
    assert float(gain.grad.abs()) > 0


def test_perplexity_is_that_of_each_byte(model, held):
    with torch.no_grad():
        logits = model(torch.from_numpy(held[:3, :-1])).double().numpy()
    odds = np.exp(logits)
    odds /= odds.sum(-1, keepdims=True)
    lost = [-math.log(odds[n, k, held[n, k + 1]]) for n in range(3) for k in range(TINY.context)]
    assert perplexity(model, held[:3]) == pytest.approx(math.exp(np.mean(lost)), rel=1e-5)


def test_integers_are_those_of_the_whole_graph(model, network, found, held):
    """Segment by segment, and many frames at a time, nothing is other than all at once."""
    graph = integer(network, found, "w4a4")
    assert {type.bits for type in graph.inputs.values()} == {8}
    assert {graph.types[name].bits for name in graph.outputs} == {8}
    assert graph.types["block0_gelu_result"].bits == 4
    linears = IntegerLinears(model.segments, graph)
    taken, given = {}, {}

    def recorded(name, x):
        taken[name] = x.numpy().reshape(-1, TOKENS, x.shape[-1])
        given[name] = linears(name, x)
        return given[name]

    with torch.no_grad():
        model(torch.from_numpy(held[:40, :-1]), recorded)
    codes = {name: type.quantisation.quantise(taken[segment]) for (name, type), segment in zip(
        graph.inputs.items(), model.segments, strict=True)}
    results = graph.evaluate(codes)
    for output, segment in zip(graph.outputs, model.segments, strict=True):
        wanted = graph.types[output].quantisation.dequantise(results[output])
        assert np.array_equal(wanted, given[segment].numpy().reshape(wanted.shape))


def test_eight_bits_lose_next_to_nothing(model, network, found, held):
    reference = perplexity(model, held)
    assert perplexity(model, held, integer(network, found, "w8a8")) == pytest.approx(
        reference, rel=0.01)
    assert perplexity(model, held, integer(network, found, "w2a8")) > 1.01 * reference


def test_designs_are_short_of_dsps(network, found):
    made = search(integer(network, found, "w8a8"), board_of("zcu104", 24))
    assert made.netlist.resources().dsp <= 24
    assert made.timing.interval < 1.5 * made.bounds.dsp
