"""GGUF files, as llama.cpp reads them, whose blocks hold the trained codes."""
