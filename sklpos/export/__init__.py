"""Deployment: a fitted model as one ``nn.Sequential``, or as one ONNX file."""

from sklpos.export.models import to_onnx, to_torch

__all__ = ["to_onnx", "to_torch"]
