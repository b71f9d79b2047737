"""Checks of raw data sets for the command `python -m data.doctor`."""
