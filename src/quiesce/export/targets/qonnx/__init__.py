"""The target qonnx: ONNX with the `Quant` nodes of QONNX, for Brevitas, FINN and hls4ml."""
