"""Measurement of oscillation: the tracker, its state and its reports."""
