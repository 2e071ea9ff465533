"""Inference: sliding window, OpenVINO and torch back ends, memory bound."""

from ichnos.inference.backends import BackendName, backend_name
from ichnos.inference.predict import Prediction, Predictor, input_channels, windows

__all__ = ["BackendName", "Prediction", "Predictor", "backend_name", "input_channels", "windows"]
