"""The walk over a float network: names, quantisations and views of its tensors.

What becomes of each op is said in the modules beside this one, by handlers that register for the
names of ONNX ops with :func:`handles`.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from hwgen.errors import HwgenError, HwgenWarning
from hwgen.ir import (
    GatherChannels,
    Graph,
    Op,
    Quantisation,
    Requantise,
    Reshape,
    Table,
    TensorType,
)
from hwgen.models.lowering.affine import Affine, find_affine
from hwgen.models.lowering.attention import symmetric, symmetric_tensors
from hwgen.models.lowering.channels import fold_orders
from hwgen.models.lowering.layout import (
    View,
    arrangement,
    channels_last,
    plain_positions,
    rearranged,
)
from hwgen.models.lowering.norm import put_norm
from hwgen.models.lowering.pads import fold_pads
from hwgen.models.lowering.products import product_tensors, wide_symmetric
from hwgen.models.lowering.ranges import Ranges, range_codes, shared_ranges, sum_codes
from hwgen.models.lowering.refusals import unsupported, way_out
from hwgen.models.lowering.regions import Regions
from hwgen.models.onnx.network import FINE, Network
from hwgen.models.onnx.nodes import ELEMENTWISE, attributes, axis_pads
from hwgen.models.onnx.normalisation import codes_of_pixels
from hwgen.models.onnx.recurrent import cell_tensors
from hwgen.models.quantisation.precision import Precision

__all__ = [
    "HANDLERS", "Handler", "Lowering", "Result", "finer", "handles", "multiplier_bits", "no_finer",
    "scales",
]

Handler = Callable[["Lowering", onnx.NodeProto], None]
HANDLERS: dict[str, Handler] = {}
"""ONNX op to what adds it to the integer graph."""
WHOLE = {"Ceil", "Floor", "Round"}
"""ONNX ops whose results are whole numbers, which codes hold exactly where they reach."""
FARTHEST = 1 << 40
"""Most steps from its zero point at which a function of a tensor is tried."""


def handles(*kinds: str) -> Callable[[Handler], Handler]:
    """Register a handler for ONNX ops."""
    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(kinds, handler))
        return handler

    return register


def scales(ratio, output: Quantisation) -> Requantise:
    """The requantisation by real ratios, with multipliers as fine as the output's codes need.

    Hardly any result is off by more than a thousandth of a step.

    Raises
    ------
    :exc:`HwgenError`
        If a ratio is too large.
    """
    return Requantise.from_scale(ratio, multiplier_bits(output))


def finer(codes: Quantisation) -> Quantisation:
    """Codes of the same numbers with up to four bits more, for what is rounded once again."""
    more = min(4, 16 - codes.bits)
    return Quantisation(codes.scale / (1 << more), codes.zero_point << more, codes.bits + more)


def no_finer(codes: Quantisation, step: float) -> Quantisation:
    """Codes of a mean, sum or difference that are not much finer than the steps it is made of.

    What is nothing but rounding, such as the mean of what had its mean taken off, has a range so
    small that no shift to the right would lead to it.
    """
    least = float(np.float32(step / (1 << 10)))
    return codes if codes.scale >= least else Quantisation(least, codes.zero_point, codes.bits)


def multiplier_bits(output: Quantisation) -> int:
    """Bits of multipliers that are as fine as codes need."""
    return min(max(output.bits + 9, 12), 24)


@dataclass(frozen=True)
class Result:
    """What a node gives: the tensor that takes its place, and its codes.

    Members
    -------
    name : ONNX tensor; behind an activation that does no more than the codes' saturation does
    quantisation : its codes
    sign : None unless only the sign of the result is used; then what 0 counts as: 1 for a positive
        number, -1 for a negative one, 0 for neither
    """

    name: str
    quantisation: Quantisation
    sign: int | None = None


class Lowering:
    """Adds the integer ops of a network to a graph, node by node.

    Parameters
    ----------
    network : :class:`hwgen.models.onnx.network.Network`
    ranges : tensor name to (smallest, largest) value
    precision : bits of weights and activations that the file does not state
    means : weighted node's input tensor to its mean per channel, for bias correction
    axes : input to where it has its channels, if that is not where its first reader says

    Raises
    ------
    :exc:`HwgenError`
        If an op, or a form of it, is not supported; the node is named.

    Members
    -------
    graph : the integer graph
    outputs : per output of the network, which elements of an output of the graph it holds
    axes : per input of the network, where it has its channels
    operands : tensors that are operands of products of streams, and what they are parts of
    ids : inputs of the graph that are ids, to how many of these there are
    """

    def __init__(
        self, network: Network, ranges: Ranges, precision: Precision,
        means: Mapping[str, np.ndarray], axes: Mapping[str, int] | None = None,
    ) -> None:
        self.network, self.precision, self.means = network, precision, means
        self.ranges, self._group = shared_ranges(network, ranges)
        self.affine: dict[str, Affine] = find_affine(network)
        absorbed = {t for affine in self.affine.values() for t in affine.absorbed}
        absorbed |= network.absorbed
        narrow, wide = symmetric_tensors(network), product_tensors(network)
        self.operands = narrow | wide
        self._symmetric = {self._group.get(t, t) for t in narrow}
        self._wide = {self._group.get(t, t) for t in wide}
        sums, around = ({self._group.get(t, t) for t in names}
                        for names in cell_tensors(network.nodes))
        self._sums, self._around = sums, around
        self._whole = {node.output[0] for node in network.nodes if node.op_type in WHOLE}
        self.regions = Regions(network, absorbed)
        self.graph = Graph()
        self.views: dict[str, View] = {}
        self._absorbed = absorbed
        self._makers = {out: node.name for node in network.nodes for out in node.output}
        self.axes: dict[str, int] = {}
        self.ids: dict[str, int] = {}
        self._taken: set[str] = set()
        self._floats: dict[str, str] = {}
        self._silent: set[str] = set()
        self._signs: set[str] = set()
        """ONNX tensors of which only the sign is there."""
        for name in network.inputs:
            shape = network.shapes[name]
            if len(shape) < 2:
                raise HwgenError(
                    f"Input {name!r} has shape {list(shape)}: it needs a batch of 1 and channels"
                )
            if name in network.ids:
                self._add_ids(name, shape)
                continue
            given, axis = self._input_result(name), (axes or {}).get(name) or self._input_axis(name)
            tensor = self.graph.add_input(
                self.fresh(name), TensorType(channels_last(shape, axis), given.quantisation))
            self.axes[name] = axis
            if axis == 1:
                self._floats[tensor] = given.name
            self.views[given.name] = View(
                tensor, None if axis == 1 else plain_positions(shape, axis))
        for node in network.nodes:
            self._convert(node)
        self.outputs: dict[str, View] = {}
        for name in network.outputs:
            self.outputs[name] = view = self.output(name)
            if view.tensor not in self.graph.outputs:
                self.graph.outputs.append(view.tensor)
        self.graph.meta["floats"] = self._floats
        self.graph.meta["axes"] = dict(zip(self.graph.inputs, self.axes.values(), strict=True))
        self.graph = fold_pads(fold_orders(self.graph))

    def _add_ids(self, name: str, shape: tuple[int, ...]) -> None:
        """Add an input of ids: each is a site of one channel."""
        ids = self.network.integer_inputs[name]
        tensor = self.graph.add_input(
            self.fresh(name), TensorType((*shape[1:], 1), self.quantisation(name)))
        self.axes[name], self.ids[tensor] = len(shape) - 1, ids.high + 1
        self.views[name] = View(tensor, np.arange(math.prod(shape)).reshape(shape))

    # Names and quantisations

    def fresh(self, name: str) -> str:
        """A name of letters, digits and single underscores, not yet taken."""
        name = re.sub(
            r"(_output_\d+|/(Conv|Mul)(_output_\d+)?|_DequantizeLinear_Output)$", "", name)
        base = re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_").lower() or "tensor"
        base = base if base[0].isalpha() else f"t{base}"
        unique, k = base, 1
        while unique in self._taken:
            k += 1
            unique = f"{base}_{k}"
        self._taken.add(unique)
        return unique

    def _input_result(self, name: str) -> Result:
        """Images in 0..1 are uint8 / 255 exactly, normalised ones nearly; other inputs are
        calibrated, or coded."""
        given = self.result(name)
        low, high = self.ranges.get(name, (-1.0, 1.0))
        if given.name == name and name not in self.network.codes:
            if name in self.network.normalised:
                bits = max(8, given.quantisation.bits)
                return Result(name, codes_of_pixels(low, high, bits))
            if low >= 0 and high <= 1:
                return Result(name, Quantisation(float(np.float32(1 / 255)), -128, 8))
        return given

    def _input_axis(self, name: str) -> int:
        """Where an input has its channels: last in front of a matrix product, or of padding at axis
        1; where a transposition takes them from; else axis 1."""
        rank = len(self.network.shapes[name])
        same = {name}
        for node in self.network.nodes:
            # Whatever works element by element leaves the channels where they are.
            if node.op_type in ELEMENTWISE and same.intersection(node.input) and (
                    same >= {*filter(None, node.input)} - self.network.constants.keys()):
                same.update(node.output)
        readers = [node for t in same for node in self.network.users.get(t, ())]
        if "MatMul" in {node.op_type for node in readers} and rank > 2:
            return rank - 1
        pads = [axis_pads(node, rank, self.constant) for node in readers if node.op_type == "Pad"
                and self.network.constants.keys() >= {*filter(None, node.input[1:])}]
        if rank > 2 and any(any(sides[1]) and not any(sides[-1]) for sides in pads):
            return rank - 1
        # TensorFlow's exporters turn an image with channels last at once.
        turns = {tuple(attributes(node).get("perm", ())) for node in readers
                 if node.op_type == "Transpose"}
        return next((perm[1] for perm in turns if len(perm) == rank > 2 and perm[0] == 0), 1)

    def quantisation(self, name: str) -> Quantisation:
        """The codes that the file states for a tensor, or those of its calibrated range."""
        if name in self.network.codes:
            return self.network.codes[name]
        least = FINE if name in self.network.fine else 0
        name = self._group.get(name, name)
        if name not in self.ranges:
            raise HwgenError(f"Tensor {name!r} has no calibrated range")
        low, high = self.ranges[name]
        if low == high == 0 and name not in self._silent:
            self._silent.add(name)
            warnings.warn(HwgenWarning(
                f"Tensor {name!r} is 0 in all frames of the calibration, so what it will be is not "
                f"known: calibrate on frames in which it is not"
            ), stacklevel=2)
        bits = max(self.precision.activations(name, self._makers.get(name, "")), least)
        if name in self._sums:
            return sum_codes(max(-low, high))
        if name in self._symmetric:
            return symmetric(max(-low, high) or 1.0, bits)
        if name in self._wide:
            return wide_symmetric(low, high, bits)
        if name in self._whole and name not in self._group.values() and (
                high - low < (1 << bits) - 1):
            return Quantisation(1.0, -(1 << (bits - 1)) - math.floor(min(low, 0)), bits)
        return range_codes(low, high, bits)

    def result(self, tensor: str, *, sign: bool = False) -> Result:
        """What takes the place of a tensor that an op makes.

        Where only an activation reads it, and the activation does what saturation of its codes
        does (ReLU, a clip, a quantiser of the file), the op makes the activation's output at once.

        Parameters
        ----------
        tensor : ONNX tensor
        sign : whether the op can give the exact sign of the tensor, for an activation that asks
            for no more
        """
        if tensor in self.network.codes or self.regions.read_itself(tensor):
            return Result(tensor, self.quantisation(tensor))
        functions = self.regions.functions(tensor)
        if len(functions) != 1:
            return Result(tensor, self.quantisation(tensor))
        (name,) = functions
        codes = self.quantisation(name)
        # Around every code, and beyond both ends as far as values go.
        low, high = (round(np.clip(v / codes.scale, -FARTHEST, FARTHEST)) + codes.zero_point
                     for v in self.ranges.get(tensor, (0.0, 0.0)))
        near = np.arange(codes.low - 3, codes.high + 4)
        if len(near) > 2048:
            near = np.unique(np.r_[near[:64], near[:: len(near) // 1024], near[-64:]])
        near = np.unique(np.r_[np.linspace(low, min(low, codes.low), 64).astype(np.int64), near,
                               np.linspace(high, max(high, codes.high), 64).astype(np.int64)])
        offsets = np.array([[-0.4], [0.0], [0.4]])
        inner = np.clip(near, codes.low, codes.high)
        real = (near + offsets - codes.zero_point) * codes.scale
        at = (inner - codes.zero_point) * codes.scale
        values = self.regions.apply(name, np.concatenate([real.ravel(), at]))
        if np.isnan(values).any():
            return Result(tensor, self.quantisation(tensor))
        got = codes.quantise(values)
        around, exact = got[: real.size].reshape(real.shape), got[real.size :]
        if (around == inner).all():
            return Result(name, codes)
        if (around == exact).all():
            # The activation works on codes as on what they stand for, so it can come after.
            return Result(tensor, codes)
        of = values[: real.size].reshape(real.shape)
        sides = [np.unique(of[side]) for side in (real < 0, real == 0, real > 0)]
        if sign and all(len(side) == 1 for side in sides):
            below, zero, above = (float(side[0]) for side in sides)
            like = 1 if zero == above else -1 if zero == below else 0
            self._signs.add(tensor)
            return Result(tensor, Quantisation(1.0, 0, 2), like)
        return Result(tensor, self._codes_before(tensor, name))

    def _codes_before(self, tensor: str, name: str) -> Quantisation:
        """Codes of a tensor that nothing but a function reads, whose result is ``name``.

        They end where the result's codes no longer change (HardSwish is 0 below -3), so they are
        finer where it matters.
        """
        codes = self.quantisation(tensor)
        shares = tensor in self._group or tensor in self._group.values()
        if shares or tensor in self._symmetric | self._wide | self._sums:
            return codes
        real = np.linspace(*self.ranges[tensor], 4096)
        values = self.regions.apply(name, real)
        changes = np.flatnonzero(np.diff(self.quantisation(name).quantise(values)))
        if not len(changes) or np.isnan(values).any():
            return codes
        return range_codes(real[changes[0]], real[changes[-1] + 1], codes.bits)

    # Tensors

    def view(self, name: str) -> View:
        """A tensor in terms of the integer graph; tables are made when first asked for."""
        if name in self.views:
            return self.views[name]
        root = self.regions.source.get(name)
        if root is None:
            if name in self.network.constants:
                raise HwgenError(f"{name!r} is constant where a stream is wanted")
            raise HwgenError(f"Tensor {name!r} is made by nothing that is supported")
        source = self.view(root)
        if source.positions is not None and source.positions.size < (
                self.graph.types[source.tensor].size):
            # Only a part: that is taken first.
            part = self._channels_taken(root, source)
            axis = self.channel_axis(root)
            source = part or View(self.tensor(root, axis), None if axis == 1 else plain_positions(
                self.shape(root), axis))
        have, want = self.graph.types[source.tensor].quantisation, self.quantisation(name)
        codes = np.arange(have.low, have.high + 1)
        values = self.regions.apply(name, have.dequantise(codes))
        if np.isnan(values).any():
            raise HwgenError(
                f"Tensor {name!r} is NaN for some values of {root!r}: it cannot be made a table"
            )
        values = want.quantise(values)
        if have == want and np.array_equal(values, codes):
            self.views[name] = source
            return source
        tensor = self.graph.add(Table(values, want), source.tensor, name=self.fresh(name))
        if source.positions is None:
            self._floats[tensor] = name
        self.views[name] = View(tensor, source.positions)
        return self.views[name]

    def _channels_taken(self, name: str, view: View) -> View | None:
        """A view of some channels of all pixels, in whatever order, with these channels alone.

        None if it holds other elements, or some of them several times.
        """
        assert view.positions is not None
        tensor = self.type(view.tensor)
        pixels, channels = np.divmod(view.positions, tensor.channels)
        kept = np.unique(channels)
        if view.positions.size != tensor.pixels * len(kept) or (
                len(np.unique(view.positions)) < view.positions.size):
            return None
        chosen = self.graph.add(GatherChannels(tuple(kept.tolist())), view.tensor,
                                name=self.fresh(f"{name}_channels"))
        return View(chosen, pixels * len(kept) + np.searchsorted(kept, channels))

    def batch_moves(self, name: str) -> bool:
        """Whether the first axis of a tensor need not be the batch: it may be heads, or steps."""
        return name in self.operands or self._group.get(name, name) in self._around

    def type(self, tensor: str) -> TensorType:
        """Type of a tensor of the integer graph."""
        return self.graph.types[tensor]

    def positions(self, name: str) -> np.ndarray:
        """Positions of a tensor's elements in the stream; see :class:`View`."""
        view = self.view(name)
        return plain_positions(self.network.shapes[name]) if view.positions is None else (
            view.positions)

    def tensor(self, name: str, axis: int = 1) -> str:
        """The tensor of the integer graph for an ONNX tensor with its channels at ``axis``."""
        view = self.view(name)
        shape = self.network.shapes[name]
        if shape[:1] != (1,) and self._group.get(name, name) in self._around:
            raise HwgenError(f"{name!r} of shape {list(shape)} has its steps in front, where the "
                             f"batch is wanted: export with the batch in front (batch_first=True)")
        if view.positions is None and (axis == 1 or len(shape) < 3):
            return view.tensor
        return self.arranged(view.tensor, self.positions(name), name, axis)

    def broadcast(self, name: str, shape: tuple[int, ...], axis: int) -> str:
        """A tensor repeated to an ONNX shape, with channels at ``axis``."""
        have = self.shape(name)
        if have == shape:
            return self.tensor(name, axis)
        have = (1,) * (len(shape) - len(have)) + have
        positions = np.broadcast_to(self.positions(name).reshape(have), shape)
        return self.arranged(self.view(name).tensor, positions, name, axis)

    def features(self, name: str) -> tuple[str, np.ndarray]:
        """A vector, ONNX shape ``(1, F)``, in whatever order its elements come.

        Returns
        -------
        tensor, order
            A tensor of the integer graph of ``F`` channels, and which of them each feature is.
        """
        view, positions = self.view(name), self.positions(name).ravel()
        size = self.type(view.tensor).size
        if not np.array_equal(np.sort(positions), np.arange(size)):
            return self.tensor(name), np.arange(len(positions))
        tensor = view.tensor
        if self.type(tensor).shape != (size,):
            tensor = self.graph.add(Reshape((size,)), tensor, name=self.fresh(f"{name}_Reshape"))
        return tensor, positions

    def arranged(self, tensor: str, positions: np.ndarray, name: str, axis: int = 1) -> str:
        """A tensor whose elements are those at ``positions``, with channels at ``axis``."""
        ops = arrangement(positions, self.type(tensor).shape, axis)
        if ops is None:
            ops = rearranged(positions, self.type(tensor), axis)
        for op in ops:
            tensor = self.graph.add(op, tensor, name=self.fresh(f"{name}_{type(op).__name__}"))
        return tensor

    def output(self, name: str) -> View:
        """Which elements of an output of the integer graph a tensor holds.

        Its channels may be at any axis.  Where no op brings the elements into order, the view
        stays as it is, and the host gathers them.
        """
        shape = self.network.shapes[name]
        view = self.view(name)
        if view.positions is None or shape[0] != 1:
            return view
        for axis in range(1, len(shape)):
            ops = arrangement(view.positions, self.type(view.tensor).shape, axis)
            if ops is not None and all(isinstance(op, Reshape) for op in ops):
                return view
            if ops is not None:
                tensor = self.arranged(view.tensor, view.positions, name, axis)
                return View(tensor, None if axis == 1 else plain_positions(shape, axis))
        return view

    def put(
        self, name: str, op: Op, *inputs: str, axis: int = 1, positions: np.ndarray | None = None
    ) -> str:
        """Add an op that makes the ONNX tensor ``name``, and return its name in the graph.

        Parameters
        ----------
        name : ONNX tensor
        op, inputs : what makes it, from tensors of the integer graph
        axis : where the ONNX tensor has its channels
        positions : of its elements in the stream, if no axis says it
        """
        tensor = self.graph.add(op, *inputs, name=self.fresh(name))
        shape = self.network.shapes[name]
        if positions is None and axis % len(shape) != 1 and len(shape) > 2:
            positions = plain_positions(shape, axis % len(shape))
        if positions is None and name not in self._signs:
            self._floats[tensor] = name
        self.views[name] = View(tensor, positions)
        return tensor

    def put_all(self, names: list[str], op: Op, source: str) -> None:
        """Add an op with several outputs, channels at axis 1."""
        tensors = [self.fresh(name) for name in names]
        self.graph.add_node(op, [source], tensors)
        for name, tensor in zip(names, tensors, strict=True):
            self.views[name] = View(tensor)
            self._floats[tensor] = name

    def rescaled(self, tensor: str, output: Quantisation) -> str:
        """A tensor in other codes."""
        have = self.type(tensor).quantisation
        if have == output:
            return tensor
        table = Table.from_function(lambda v: v, have, output)
        return self.graph.add(table, tensor, name=self.fresh(f"{tensor}_rescaled"))

    def flipped(self, tensor: str) -> str:
        """A tensor times -1, exactly: its codes are counted from the other end."""
        codes = self.type(tensor).quantisation
        flip = Quantisation(codes.scale, -1 - codes.zero_point, codes.bits)
        values = -1 - np.arange(codes.low, codes.high + 1)
        return self.graph.add(Table(values, flip), tensor, name=self.fresh(f"{tensor}_flipped"))

    def move(self, name: str, source: str, positions: np.ndarray) -> None:
        """Let ``name`` hold the elements of the graph's tensor ``source`` at ``positions``."""
        self.views[name] = View(source, positions)

    def channel_axis(self, name: str) -> int:
        """Where an ONNX tensor best has its channels: where its stream has them, if it can."""
        view, shape = self.view(name), self.network.shapes[name]
        if view.positions is None:
            return 1
        source = self.type(view.tensor).shape

        def work(axis: int) -> int:
            ops = arrangement(view.positions, source, axis)
            if ops is None:
                return 3
            extents = all(isinstance(op, Reshape) for op in ops) and shape[axis] == source[-1]
            return (0 if not ops else 1) if extents else 2

        axes = (1, *range(len(shape) - 1, 1, -1))
        axis = min(axes, key=work)
        if work(axis) < 3:
            return axis
        # Pixels in another order still have their channels side by side.
        order = view.positions % source[-1]
        whole = (a for a in axes if shape[a] == source[-1] and (
            np.moveaxis(order, a, -1) == np.arange(source[-1])).all())
        return next(whole, 1)

    def constant(self, name: str) -> np.ndarray:
        """A constant as float64, to the last bit if the file states it in integers.

        Raises
        ------
        :exc:`HwgenError`
            If it is not constant.
        """
        if name not in self.network.constants:
            raise HwgenError(f"{name!r} must be constant")
        if name in self.network.weights:
            coded = self.network.weights[name]
            return coded.integers * coded.scale
        return self.network.constants[name].astype(np.float64)

    def shape(self, name: str) -> tuple[int, ...]:
        """ONNX shape of a tensor."""
        return self.network.shapes[name]

    # Nodes

    def _convert(self, node: onnx.NodeProto) -> None:
        out = node.output[0]
        if out in self.regions.source or out in self._absorbed:
            # Made when used: what is only part of a larger region never is.
            return
        label = node.name or out
        handler = HANDLERS.get(node.op_type)
        if handler is None:
            why = unsupported(self.network, node, {*HANDLERS, *ELEMENTWISE})
            raise HwgenError(f"Node {label!r}: {why}{way_out(self.network, node)}")
        norm = self.network.norms.get(out)
        try:
            if norm is not None:
                put_norm(self, norm)
            else:
                handler(self, node)
        except HwgenError as error:
            text = str(error)
            text = text if text.startswith("Node ") else f"Node {label!r} ({node.op_type}): {text}"
            raise HwgenError(text + way_out(self.network, node)) from None
