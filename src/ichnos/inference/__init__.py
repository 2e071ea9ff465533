"""Inference: sliding window, OpenVINO and torch back ends, memory bound."""

from ichnos.inference.predict import Prediction, Predictor, windows

__all__ = ["Prediction", "Predictor", "windows"]
