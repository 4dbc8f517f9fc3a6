"""Measuring and forecasting, for any torch model or recorded run."""
