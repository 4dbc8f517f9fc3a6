"""The theory: one symbolic model, its closed forms, its dynamics and its simulation."""

import importlib

_HOME = {
    "TwoLayerLinear": "model",
    "ReducedState": "model",
    "FlowState": "flow",
    "predict_flow": "flow",
    "onset_time": "flow",
    "limit_c2": "flow",
    "limit_sharpness": "flow",
    "max_stable_lr": "flow",
    "predict_layered_flow": "layer",
    "sharpness_minimum": "layer",
    "descent_limit": "backward_error",
    "solved_sharpness": "sharpness",
    "arrow_sharpness": "sharpness",
    "simulate": "simulation",
    "simulate_gd": "simulation",
    "make_optimizer": "optimizers",
    "simulate_flow": "simulation",
    "forecast_descent": "forecast",
    "DescentForecast": "forecast",
    "NOTATION": "notation",
    "critical_sharpness": "thresholds",
    "clipped_amplitude": "thresholds",
    "floor_curvature": "imbalance",
    "floor_shift": "imbalance",
    "imbalanced_limit_c2": "imbalance",
    "imbalanced_limit_sharpness": "imbalance",
    "balanced_limit_sharpness": "depth",
    "depth_limit": "depth",
    "depth_limit_sharpness": "depth",
    "signal_order": "depth",
    "exit_time": "edge",
    "peak_log_u": "edge",
    "stability_integral": "edge",
    "summed_growth": "edge",
    "critical_sgd_lr": "noise",
    "GroupSeries": "groups",
    "group_lead": "groups",
    "group_loss_flow": "groups",
    "group_loss_series": "groups",
    "rise_amplitudes": "groups",
    "PeriodTwo": "logistic",
    "logistic_critical_c2": "logistic",
    "logistic_curvature": "logistic",
    "logistic_edge": "logistic",
    "logistic_flow": "logistic",
    "logistic_onset_time": "logistic",
    "logistic_peak_curvature": "logistic",
    "logistic_period_two": "logistic",
    "logistic_sharpness": "logistic",
    "mean_square_factor": "noise",
    "sgd_group_losses": "noise",
    "sgd_variance": "noise",
}

__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'toymodels' has no attribute {name!r}")
    return getattr(importlib.import_module(f"toymodels.{_HOME[name]}"), name)
