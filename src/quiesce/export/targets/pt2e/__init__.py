"""A network of torch's quantize and dequantize operators, as PT2E makes it, with the trained codes.

PT2E is the quantization of torch.export graphs. ExecuTorch takes its form.
"""
