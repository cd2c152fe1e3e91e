"""quiesce: low-bit quantization-aware training whose weights come to rest."""
