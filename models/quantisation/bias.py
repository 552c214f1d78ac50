"""Bias correction: what rounded weights add to the mean of an output is taken off its bias."""

from __future__ import annotations

import numpy as np

from hwgen.errors import HwgenError

__all__ = ["corrected_bias"]


def corrected_bias(
    weight: np.ndarray,
    quantised_weight: np.ndarray,
    bias: np.ndarray | None,
    mean_input: np.ndarray,
) -> np.ndarray:
    """The bias with which quantised weights keep the expected output of each channel.

    Rounding adds ``E[eps * x]`` with ``eps = quantised_weight - weight``; with the input's mean
    the same at every tap that is ``sum(eps, taps) @ E[x]`` (Nagel et al., "Data-Free Quantization
    Through Weight Equalization and Bias Correction", 2019, section 4.2, with measured means).
    Padding is not accounted for: at the border the true error is smaller.

    Parameters
    ----------
    weight, quantised_weight : float arrays, shape ``(Cout, *taps, Cin / groups)``
        The second one dequantised.
    bias : float array, shape ``(Cout,)``; None for none
    mean_input : float array, shape ``(Cin,)``
        Its length over that of the weights' last dimension is the number of groups.

    Returns
    -------
    float64 array, shape ``(Cout,)``

    Raises
    ------
    :exc:`HwgenError`
        If the shapes do not fit.
    """
    weight, quantised = np.asarray(weight, np.float64), np.asarray(quantised_weight, np.float64)
    mean = np.asarray(mean_input, np.float64)
    if weight.ndim < 2 or weight.shape != quantised.shape:
        raise HwgenError(f"Weights must be two arrays (Cout, *taps, Cin), not of shapes "
                         f"{weight.shape} and {quantised.shape}")
    cout, cin = weight.shape[0], weight.shape[-1]
    groups = mean.size // cin if cin else 0
    if mean.ndim != 1 or not groups or mean.size != groups * cin or cout % groups:
        raise HwgenError(f"Means must be one for each input channel of weights {weight.shape}, "
                         f"not of shape {mean.shape}")
    real = np.zeros(cout) if bias is None else np.asarray(bias, np.float64)
    if real.shape != (cout,):
        raise HwgenError(f"Biases must be {cout}, not of shape {real.shape}")
    eps = (quantised - weight).reshape(groups, cout // groups, -1, cin).sum(2)
    return real - np.einsum("goi,gi->go", eps, mean.reshape(groups, cin)).ravel()
