"""The one room that touches llama.cpp's C interface: loading, contexts, memory breakdown."""
