"""Inference: sliding window, OpenVINO and torch back ends, memory bound."""

from ichnos.inference.backends import BackendName, backend_name
from ichnos.inference.channels import input_channels, windows
from ichnos.inference.predict import Predictor
from ichnos.inference.prediction import Prediction

__all__ = ["BackendName", "Prediction", "Predictor", "backend_name", "input_channels", "windows"]
