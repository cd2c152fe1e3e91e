"""Quantization of a float model: schemes, quantizers, calibration and quantized layers."""
