"""Running ONNX models in onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnxruntime

__all__ = ["session"]


def session(
    model: onnx.ModelProto, disabled: Sequence[str] = (), **options
) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU, quiet.

    Parameters
    ----------
    model : what to run
    disabled : names of optimisations that are left out
    options : attributes of :class:`onnxruntime.SessionOptions`
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    # Quantisers mean what they say: no moving them about.
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    for name, value in options.items():
        setattr(settings, name, value)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"],
        disabled_optimizers=list(disabled) or None,
    )
