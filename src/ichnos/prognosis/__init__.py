"""Plain-number models that turn measures into forecasts, grades and intervals; fitted in `learning/fit`."""
