"""The target litert: a .tflite file for LiteRT with XNNPACK."""
