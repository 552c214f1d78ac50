"""Decompositions as plain data: which layers one makes of a layer, and what these cost."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hwgen.errors import HwgenError, naming
from hwgen.models.compression.layers import FloatLayer

__all__ = ["SCHEMES", "Cost", "Decomposition", "Stage", "cost", "from_json", "plan",
           "stages", "to_json"]

SVD = ("svd_spatial", "svd_last", "svd_first")
"""Schemes with two layers in a row; each group of a weight is a product of two matrices."""
SCHEMES = (*SVD, "cpd", "sparse")
BITS = range(2, 9)


@dataclass(frozen=True)
class Decomposition:
    """What takes the place of a layer with weights ``(F, C, *kernel)``.

    =========== ====================================================================
    scheme      layers in a row
    =========== ====================================================================
    svd_spatial ``1 x Kw`` in groups to ``groups * rank`` channels, ``Kh x 1`` to F
    svd_last    ``Kh x Kw`` in groups to ``groups * rank``, ``1 x 1`` to F
    svd_first   ``1 x 1`` to ``groups * rank``, ``Kh x Kw`` in groups to F
    cpd         ``1 x 1`` to ``rank``, depthwise ``Kh x 1`` and ``1 x Kw``, ``1 x 1``
    sparse      the layer itself, with zeros; a residual only
    =========== ====================================================================

    ``groups`` cuts the input channels, with svd_first the output channels.  A convolution of more
    or fewer dimensions has its whole kernel where it says ``Kh x Kw``, and a depthwise layer for
    each dimension; svd_spatial needs two.  A matrix is a kernel of no dimension, where svd_last and
    svd_first are the same, in one group.

    The SVD schemes are those of SVD-NAS (Yu and Bouganis, "SVD-NAS: Coupling Low-Rank
    Approximation and Neural Architecture Search", 2022); with the CPD (Lebedev et al., "Speeding-up
    Convolutional Neural Networks Using Fine-tuned CP-Decomposition", 2015) they are the choices of
    Mixed-TD (Yu and Bouganis, "Mixed-TD: Efficient Neural Network Accelerator with Layer-Specific
    Tensor Decomposition", 2023).

    Parameters
    ----------
    scheme : one of the above
    rank : of each group's matrix, or of the tensor; 1 or more, but 0 for ``sparse``
    groups : that channels are cut into before each part is decomposed on its own
    density : share of the weights that ``sparse`` keeps, those of largest magnitude
    bits : 2..8: an SVD scheme's weights are found as integers, by
        :func:`hwgen.models.compression.itera.iterate`; None: they are real
    seed : of what an SVD cannot start a CPD with
    residual : a decomposition of what this one leaves, added to it as a branch of its own

    Raises
    ------
    :exc:`HwgenError`
        If a parameter is not legal, whatever the layer.
    """

    scheme: str
    rank: int = 0
    groups: int = 1
    density: float = 0.0
    bits: int | None = None
    seed: int = 0
    residual: Decomposition | None = None

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise HwgenError(f"Scheme must be one of {', '.join(SCHEMES)}, not {self.scheme!r}")
        for name, least in (("rank", int(self.scheme != "sparse")), ("groups", 1), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise HwgenError(f"{name.capitalize()} of {self.scheme} must be an integer of "
                                 f"{least} or more, not {value!r}")
        if self.scheme not in SVD and self.groups != 1:
            raise HwgenError(f"Groups must be 1 with {self.scheme}, not {self.groups!r}")
        if self.bits is not None and (
                self.scheme not in SVD or type(self.bits) is not int or self.bits not in BITS):
            raise HwgenError(f"Bits must be None, or 2 to 8 with {', '.join(SVD)}, "
                             f"not {self.bits!r} with {self.scheme}")
        self._check_density()
        self._check_residual()

    def _check_density(self) -> None:
        if self.scheme == "sparse":
            if self.rank or self.residual is not None:
                raise HwgenError("A sparse branch has neither a rank nor a residual")
            if not _real(self.density) or not 0 < self.density < 1:
                raise HwgenError(f"Density of sparse must be above 0 and below 1, "
                                 f"not {self.density!r}")
        elif self.density:
            raise HwgenError(f"Density must be 0 with {self.scheme}, not {self.density!r}")

    def _check_residual(self) -> None:
        if self.residual is None:
            return
        if not isinstance(self.residual, Decomposition):
            raise HwgenError(f"Residual must be None or a Decomposition, not {self.residual!r}")
        if self.residual.residual is not None:
            raise HwgenError("A residual has no residual of its own: two branches are made")


@dataclass(frozen=True)
class Stage:
    """One of the layers in a row.

    Members
    -------
    shape : of its weights, ``(Cout, Cin / groups, *kernel)``
    groups : that it has
    axes : spatial dimensions (from 0) whose stride, pads and dilation are its own
        In all others it leaves the extent as it is.
    nonzero : weights that are not 0 by construction
    """

    shape: tuple[int, ...]
    groups: int
    axes: tuple[int, ...]
    nonzero: int


@dataclass(frozen=True)
class Cost:
    """Weights, and multiplications in a frame, without those of zeros."""

    parameters: int
    macs: int

    def below(self, other: Cost) -> bool:
        """Whether there are fewer weights and fewer multiplications than in another."""
        return self.parameters < other.parameters and self.macs < other.macs


def plan(
    shape: tuple[int, ...], decomposition: Decomposition
) -> tuple[tuple[Stage, ...], ...]:
    """The layers of each branch, for weights of a shape.

    Parameters
    ----------
    shape : ``(F, C, *kernel)``
    decomposition : of these weights

    Raises
    ------
    :exc:`HwgenError`
        If rank or groups are not possible for weights of this shape, or the scheme is not.
    """
    branches = [_stages(shape, decomposition)]
    if decomposition.residual is not None:
        with naming("residual"):
            branches.append(_stages(shape, decomposition.residual))
    return tuple(branches)


def cost(layer: FloatLayer, decomposition: Decomposition | None = None) -> Cost:
    """Weights and MACs of a layer, as it is or decomposed.

    Zeros of a sparse branch are not counted: hardware that does not skip them multiplies them all.

    Raises
    ------
    :exc:`HwgenError`
        If the layer cannot be decomposed so.
    """
    if decomposition is None:
        size = math.prod(layer.shape)
        return Cost(size, size * math.prod(layer.outputs))
    parameters = macs = 0
    for stage, pixels in stages(layer, decomposition):
        parameters += stage.nonzero
        macs += stage.nonzero * pixels
    return Cost(parameters, macs)


def stages(layer: FloatLayer, decomposition: Decomposition) -> Iterator[tuple[Stage, int]]:
    """The layers of all branches, each with the number of pixels that it makes.

    Raises
    ------
    :exc:`HwgenError`
        If the layer cannot be decomposed so.
    """
    with naming(f"Layer {layer.name!r}"):
        branches = plan(layer.shape, decomposition)
    for branch in branches:
        extents = list(layer.inputs)
        for stage in branch:
            for axis in stage.axes:
                extents[axis] = layer.outputs[axis]
            yield stage, math.prod(extents)


def to_json(choices: Mapping[str, Decomposition]) -> str:
    """Decompositions by layer as JSON; fields that have their defaults are left out."""
    return json.dumps({name: _plain(choice) for name, choice in choices.items()}, indent=2)


def from_json(text: str) -> dict[str, Decomposition]:
    """The decompositions by layer that :func:`to_json` wrote.

    Raises
    ------
    :exc:`HwgenError`
        If it is not of that form; the layer is named.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise HwgenError(f"Decompositions are not JSON: {error}") from None
    if not isinstance(data, dict):
        raise HwgenError("Decompositions must be a table from layers to what becomes of them")
    choices = {}
    for name, entry in data.items():
        with naming(f"Layer {name!r}"):
            choices[name] = _parsed(entry)
    return choices


def _plain(choice: Decomposition) -> dict:
    entry = {}
    for field in dataclasses.fields(choice):
        value = getattr(choice, field.name)
        if value != field.default:
            entry[field.name] = _plain(value) if isinstance(value, Decomposition) else value
    return entry


def _parsed(entry: object) -> Decomposition:
    fields = [field.name for field in dataclasses.fields(Decomposition)]
    if not isinstance(entry, dict) or "scheme" not in entry:
        raise HwgenError(f"a decomposition is a table with a scheme, not {entry!r}")
    if unknown := sorted(set(entry) - set(fields)):
        raise HwgenError(f"{unknown[0]!r} is unknown: a decomposition has {', '.join(fields)}")
    residual = entry.get("residual")
    if residual is None:
        return Decomposition(**entry)
    return Decomposition(**{**entry, "residual": _parsed(residual)})


def _real(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _stages(shape: tuple[int, ...], choice: Decomposition) -> tuple[Stage, ...]:
    """The layers in a row that weights of a shape become, without the residual."""
    cout, cin, *kernel = shape
    rank, groups = choice.rank, choice.groups
    ones = (1,) * len(kernel)
    # A single tap reaches no further: its stride is best taken first.
    single = tuple(k for k, taps in enumerate(kernel) if taps == 1)
    wide = tuple(k for k, taps in enumerate(kernel) if taps > 1)
    if choice.scheme == "sparse":
        kept = max(1, round(choice.density * math.prod(shape)))
        return (Stage(shape, 1, single + wide, kept),)
    _check_shape(shape, choice)
    if choice.scheme == "svd_spatial":
        column, row = (kernel[0], 1), (1, kernel[1])
        return (_dense((groups * rank, cin // groups, *row), groups, {1, *single}),
                _dense((cout, groups * rank, *column), 1, {0} - {*single}))
    if choice.scheme == "svd_last":
        return (_dense((groups * rank, cin // groups, *kernel), groups, {*single, *wide}),
                _dense((cout, groups * rank, *ones), 1, ()))
    if choice.scheme == "svd_first":
        return (_dense((groups * rank, cin, *ones), 1, single),
                _dense((cout, rank, *kernel), groups, wide))
    depthwise = [
        _dense((rank, 1, *(kernel[k] if k == axis else 1 for k in range(len(kernel)))), rank,
               (axis,)) for axis in wide
    ]
    return (_dense((rank, cin, *ones), 1, single), *depthwise,
            _dense((cout, rank, *ones), 1, ()))


def _check_shape(shape: tuple[int, ...], choice: Decomposition) -> None:
    """Raise :exc:`HwgenError` if scheme, groups or rank are not possible for weights of a shape."""
    cout, cin, *kernel = shape
    groups, taps = choice.groups, math.prod(kernel)
    if choice.scheme == "svd_spatial" and len(kernel) != 2:
        raise HwgenError(f"svd_spatial needs a kernel of 2 dimensions, not {kernel}: use "
                         f"svd_last or svd_first")
    if groups > 1 and not kernel:
        raise HwgenError(f"a fully connected layer is decomposed in one group, not {groups}")
    divided, what = (cout, "output") if choice.scheme == "svd_first" else (cin, "input")
    if divided % groups:
        raise HwgenError(f"groups must divide {divided} {what} channels, not {groups}")
    if choice.scheme == "cpd":
        most = math.prod(shape) // max(shape)
    elif choice.scheme == "svd_spatial":
        most = min(cout * kernel[0], cin // groups * kernel[1])
    elif choice.scheme == "svd_last":
        most = min(cout, cin // groups * taps)
    else:
        most = min(cout // groups * taps, cin)
    if choice.rank > most:
        raise HwgenError(f"rank of {choice.scheme} must be 1 to {most} for weights "
                         f"{list(shape)} in {groups} groups, not {choice.rank}")


def _dense(shape: tuple[int, ...], groups: int, axes) -> Stage:
    return Stage(shape, groups, tuple(sorted(axes)), math.prod(shape))
