"""`make gpu-check`: what only a real GPU can show, measured in one run of a few minutes.

    python3 -m gpu_check --help          (with tests/benchmarks on PYTHONPATH)

Four parts, each with its own time limit and process: the CUDA build (`build`), plans against what
the driver reports (`memory`), a second process that takes and returns memory (`headroom`), and
speed (`speed`). Results are written after every step (`results`, `page`), so a run that is cut
short keeps what it has. `--simulated` runs all that needs no GPU on a simulated device.

On a rented machine without a network: `make gpu-bundle` at home, then there `make gpu-check
BUNDLE=build/gpu-bundle`. Where one command may take 10 minutes at most, run PARTS="build memory"
and then PARTS="headroom speed". Models are written in memory (/dev/shm) where that has 48 GiB free,
else under SCRATCH.

`__main__`, `build`, `bundle`, `results` and `page` use the standard library alone: on a rented
machine they run before anything is installed.
"""
