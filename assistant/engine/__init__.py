"""Engines that answer: the llama.cpp worker process and remote servers, behind one protocol."""
