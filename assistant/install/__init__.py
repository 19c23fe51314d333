"""Chooses, builds and installs the llama.cpp that fits this machine."""
