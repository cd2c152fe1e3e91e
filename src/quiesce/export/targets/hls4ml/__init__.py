"""The target hls4ml: a project of HLS C++ for FPGAs, with proven widths."""
