"""The daemon: HTTP on a private socket, supervision, headroom, reports. No llama.cpp in it."""
