"""Recurrent networks that spot keywords: an LSTM and a GRU over the coefficients of a second.

Zhang et al., "Hello Edge: Keyword Spotting on Microcontrollers" (2017): the smallest of
its basic LSTMs and the second of its three GRUs, in the sizes of the authors' training commands
(repository ML-KWS-for-MCU), for 49 steps of 10 mel-frequency cepstral coefficients and 12 classes.
Cells are PyTorch's, which have two biases where those of TensorFlow have one, and a GRU's reset
gate behind the matrix.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["Keywords"]


class Keywords(nn.Module):
    """A cell, and a dense layer behind its last step.

    Parameters
    ----------
    kind : :class:`str`
        ``"LSTM"`` or ``"GRU"``.
    units, features, classes : :class:`int`

    Forward: coefficients ``(N, T, features)``, each with a mean of about 0 and a deviation of about
    1, to scores ``(N, classes)``.
    """

    def __init__(self, kind: str, units: int, features: int = 10, classes: int = 12) -> None:
        super().__init__()
        self.cells: nn.RNNBase = getattr(nn, kind)(features, units, batch_first=True)
        self.head = nn.Linear(units, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.cells(x)[0][:, -1])
