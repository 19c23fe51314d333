/* The simulated gpus that the ggml device and the NVML stand-in share.
 *
 * UNDERKEEL_SIMCARDS names a folder with two files:
 *
 *   gpus  text, replaced by the test at any moment and read again at every question. A line each:
 *            driver loaded=1
 *            gpu SIM0 total=8589934592 others=1073741824 context=0 ...
 *            slice SIM0 total=2147483648 others=0            a MIG slice of that gpu
 *            process SIM0 pid=4242 bytes=1073741824          somebody else's, shown by NVML
 *          Keys that are left out are 0. `struct gpu` says what each means.
 *   usage  what the simulated device's own processes have allocated, shared by mapping it. A
 *          process that has ended no longer counts, as with a real driver.
 */
#ifndef SIMULATED_CARDS_H
#define SIMULATED_CARDS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum { MAX_GPUS = 8, MAX_SLICES = 7, MAX_PROCESSES = 64, NAME_BYTES = 32 };

enum stage { STAGE_WEIGHTS, STAGE_KV, STAGE_COMPUTE, STAGE_DRIVER, STAGES };

enum compute { COMPUTE_OK, COMPUTE_FAIL, COMPUTE_ALLOC_FAILED, COMPUTE_ABORT, COMPUTE_HANG };

struct slice {
    int64_t total;
    int64_t others;
};

struct foreign {
    int gpu;
    int64_t pid;
    int64_t bytes;
};

struct gpu {
    char name[NAME_BYTES];
    int64_t total;         /* bytes of the gpu */
    int64_t others;        /* bytes that other programs hold now */
    int64_t overstate;     /* bytes by which the reported free memory is too high */
    int64_t context;       /* bytes that a process's first stream takes (a CUDA context) */
    int64_t pool;          /* bytes that its first graph takes (a CUDA memory pool) */
    int64_t row_padding;   /* quantised rows are padded to this many elements; 512 on CUDA */
    int64_t refuse;        /* bit mask of stages whose allocations are refused */
    int64_t refuse_after;  /* refuse every allocation from a process's n-th on; 0 never */
    int64_t compute;       /* enum compute: how a graph ends */
    int64_t compute_after; /* ... once the process has run this many graphs */
    int64_t lost;          /* the gpu has fallen off the bus */
    int slices;            /* MIG is on if there are any */
    struct slice slice[MAX_SLICES];
};

struct machine {
    bool readable;      /* false where the folder or the file is missing */
    int64_t driver_loaded;
    int gpus;
    struct gpu gpu[MAX_GPUS];
    int foreign;
    struct foreign process[MAX_PROCESSES];
};

/* One process that uses simulated gpus. Layout known to simulated.py. */
struct usage {
    _Atomic int64_t pid; /* 0: free row */
    _Atomic int64_t bytes[MAX_GPUS][STAGES];
    _Atomic int64_t allocations[MAX_GPUS];
    _Atomic int64_t refused[MAX_GPUS];
    _Atomic int64_t graphs[MAX_GPUS];
};

void machine_read(struct machine *machine);

/* All rows, mapped once; a private table where the folder cannot be written. */
struct usage *usage_table(void);

/* This process's row, taken on first use. NULL if all rows are in use. */
struct usage *usage_own(void);

/* Ends of processes seen by now free their rows. */
void usage_forget_dead(void);

/* Bytes that all simulated processes hold on a gpu. */
int64_t usage_bytes(int gpu);

#endif
