"""The float network that a file holds, as all later steps read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwgen.ir import Quantisation
from hwgen.models.onnx.attention import AttentionPattern
from hwgen.models.onnx.division import Host
from hwgen.models.onnx.layer_norms import NormPattern
from hwgen.models.onnx.normalisation import Normalisation
from hwgen.models.onnx.quantisers import CodedConstant, IntegerInput

__all__ = ["FINE", "Network"]

FINE = 12
"""Fewest bits of fine codes: more hardly help behind tensors of eight bits, and a table of 4,096
words is four block memories."""


@dataclass
class Network:
    """A float network: ONNX nodes in topological order, constants, and the shapes of tensors.

    Members
    -------
    model : the ONNX model, for running it
    nodes : its nodes
    constants : name to array
    shapes : name to shape, NCHW with a batch of 1
    inputs, outputs : tensor names
    codes : float tensor to the quantisation whose values alone it takes, if the file says so
    weights : constant to its integers, if the file states them
    integer_inputs : inputs that are integers in the file, to what these stand for
    ids : those of them that choose rows of tables
    fixed : inputs of the file that are constants here, to what they are
    normalised : inputs that take images normalised as in training, to how; others take them in 0..1
    inner : tensors inside of a quantiser that takes several nodes
    fine : tensors inside of what is one op to the user, such as means and variances
        Their errors would be those of many results, so their codes have :data:`FINE` bits at least,
        and span all values.
    attention : by the second product of each attention, what stands in front of it
    keep_state : whether recurrent cells keep their states from frame to frame
    host : what is left to the host
    users : tensor to the nodes that read it
    """

    model: onnx.ModelProto
    nodes: list[onnx.NodeProto]
    constants: dict[str, np.ndarray]
    shapes: dict[str, tuple[int, ...]]
    inputs: list[str]
    outputs: list[str]
    codes: dict[str, Quantisation] = field(default_factory=dict)
    weights: dict[str, CodedConstant] = field(default_factory=dict)
    integer_inputs: dict[str, IntegerInput] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    fixed: dict[str, str] = field(default_factory=dict)
    normalised: dict[str, Normalisation] = field(default_factory=dict)
    inner: set[str] = field(default_factory=set)
    fine: set[str] = field(default_factory=set)
    attention: dict[str, AttentionPattern] = field(default_factory=dict)
    norms: dict[str, NormPattern] = field(default_factory=dict)
    keep_state: bool = False
    host: Host = field(default_factory=Host)
    users: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in self.nodes:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    @property
    def absorbed(self) -> set[str]:
        """Tensors inside of an attention or a normalisation of pixels."""
        patterns = (*self.attention.values(), *self.norms.values())
        return {name for each in patterns for name in each.absorbed}

    def with_constants(
        self, arrays: Mapping[str, np.ndarray],
        weights: Mapping[str, CodedConstant] | None = None,
    ) -> Network:
        """The network with other values for some of its constants, in its model too.

        Parameters
        ----------
        arrays : by name
        weights : integers that some of them stand for
        """
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for value in model.graph.initializer:
            if value.name in arrays:
                kind = helper.tensor_dtype_to_np_dtype(value.data_type)
                array = np.ascontiguousarray(arrays[value.name], kind)
                value.CopyFrom(numpy_helper.from_array(array, value.name))
        kept = {name: coded for name, coded in self.weights.items() if name not in arrays}
        return replace(
            self, model=model, constants={**self.constants, **arrays},
            weights={**kept, **(weights or {})}, users={},
        )
