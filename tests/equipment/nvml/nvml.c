/* libnvidia-ml.so.1 for machines without one: the calls that pynvml makes for Underkeel.
 *
 * Values come from the same folder as the simulated ggml device's. A driver that goes away leaves
 * the session unusable until it is shut down and begun again, as the real one does.
 */
#include "gpus.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    SUCCESS = 0,
    UNINITIALISED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    GPU_IS_LOST = 15,
    UNKNOWN = 999,
};

enum { NO_INSTANCE = -1, CARD_STEP = 16, BUS_ID_BYTES = 32, BUS_ID_LEGACY_BYTES = 16 };

#define EXPORTED __attribute__((visibility("default")))

/* A handle is a small number: 1 + 16 * gpu, and 1 + slice more for a MIG instance. */
typedef uintptr_t handle;

struct memory {
    unsigned long long total, free, used;
};

struct process {
    unsigned int pid;
    unsigned long long used;
    unsigned int gpu_instance, compute_instance;
};

struct pci {
    char legacy_bus_id[BUS_ID_LEGACY_BYTES];
    unsigned int domain, bus, device, device_id, subsystem_id;
    char bus_id[BUS_ID_BYTES];
};

static int sessions;
static bool stale;

static int session(struct machine *machine) {
    machine_read(machine);
    if (sessions == 0) return UNINITIALISED;
    if (!machine->driver_loaded) stale = true;
    return stale ? UNKNOWN : SUCCESS;
}

/* Find the gpu of a handle; `slice` becomes NO_INSTANCE for the gpu itself. */
static int find(handle device, struct machine *machine, const struct gpu **gpu, int *slice) {
    int status = session(machine);
    if (status != SUCCESS) return status;
    uintptr_t index = (device - 1) / CARD_STEP;
    if (device == 0 || index >= (uintptr_t)machine->gpus) return INVALID_ARGUMENT;
    *gpu = &machine->gpu[index];
    *slice = (int)((device - 1) % CARD_STEP) - 1;
    if (*slice >= (*gpu)->slices) return INVALID_ARGUMENT;
    return (*gpu)->lost ? GPU_IS_LOST : SUCCESS;
}

static int gpu_index(handle device) { return (int)((device - 1) / CARD_STEP); }

EXPORTED int nvmlInitWithFlags(unsigned int flags) {
    (void)flags;
    struct machine machine;
    machine_read(&machine);
    if (!machine.readable || !machine.driver_loaded) return DRIVER_NOT_LOADED;
    if (sessions++ == 0) stale = false;
    return SUCCESS;
}

EXPORTED int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

EXPORTED int nvmlShutdown(void) {
    if (sessions == 0) return UNINITIALISED;
    sessions--;
    return SUCCESS;
}

EXPORTED const char *nvmlErrorString(int status) {
    switch (status) {
        case SUCCESS: return "Success";
        case UNINITIALISED: return "Uninitialized";
        case INVALID_ARGUMENT: return "Invalid Argument";
        case NOT_SUPPORTED: return "Not Supported";
        case DRIVER_NOT_LOADED: return "Driver Not Loaded";
        case GPU_IS_LOST: return "GPU is lost";
        default: return "Unknown Error";
    }
}

EXPORTED int nvmlSystemGetDriverVersion(char *text, unsigned int length) {
    struct machine machine;
    int status = session(&machine);
    if (status == SUCCESS) snprintf(text, length, "simulated");
    return status;
}

EXPORTED int nvmlDeviceGetCount_v2(unsigned int *count) {
    struct machine machine;
    int status = session(&machine);
    if (status == SUCCESS) *count = (unsigned int)machine.gpus;
    return status;
}

EXPORTED int nvmlDeviceGetHandleByIndex_v2(unsigned int index, handle *device) {
    struct machine machine;
    int status = session(&machine);
    if (status != SUCCESS) return status;
    if (index >= (unsigned int)machine.gpus) return INVALID_ARGUMENT;
    if (machine.gpu[index].lost) return GPU_IS_LOST;
    *device = 1 + (handle)index * CARD_STEP;
    return SUCCESS;
}

EXPORTED int nvmlDeviceGetName(handle device, char *text, unsigned int length) {
    struct machine machine;
    const struct gpu *gpu;
    int slice, status = find(device, &machine, &gpu, &slice);
    if (status != SUCCESS) return status;
    if (slice == NO_INSTANCE) {
        snprintf(text, length, "%s", gpu->name);
    } else {
        snprintf(text, length, "%s MIG %d", gpu->name, slice);
    }
    return SUCCESS;
}

EXPORTED int nvmlDeviceGetUUID(handle device, char *text, unsigned int length) {
    struct machine machine;
    const struct gpu *gpu;
    int slice, status = find(device, &machine, &gpu, &slice);
    if (status != SUCCESS) return status;
    const char *kind = slice == NO_INSTANCE ? "GPU" : "MIG";
    snprintf(text, length, "%s-%s-%d", kind, gpu->name, slice + 1);
    return SUCCESS;
}

EXPORTED int nvmlDeviceGetPciInfo_v3(handle device, struct pci *pci) {
    struct machine machine;
    const struct gpu *gpu;
    int slice, status = find(device, &machine, &gpu, &slice);
    if (status != SUCCESS) return status;
    memset(pci, 0, sizeof *pci);
    pci->bus = (unsigned int)gpu_index(device) + 1;
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", pci->bus);
    snprintf(pci->legacy_bus_id, sizeof pci->legacy_bus_id, "0000:%02X:00.0", pci->bus);
    return SUCCESS;
}

EXPORTED int nvmlDeviceGetMemoryInfo(handle device, struct memory *memory) {
    struct machine machine;
    const struct gpu *gpu;
    int slice, status = find(device, &machine, &gpu, &slice);
    if (status != SUCCESS) return status;
    int64_t total = gpu->total, used = gpu->others + usage_bytes(gpu_index(device));
    if (slice != NO_INSTANCE) {
        total = gpu->slice[slice].total;
        used = gpu->slice[slice].others;
    }
    int64_t left = total - used + gpu->overstate;
    if (left < 0) left = 0;
    if (left > total) left = total;
    memory->total = (unsigned long long)total;
    memory->free = (unsigned long long)left;
    memory->used = (unsigned long long)(total - left);
    return SUCCESS;
}

EXPORTED int nvmlDeviceGetComputeRunningProcesses_v3(handle device, unsigned int *count,
                                                     struct process *processes) {
    struct machine machine;
    const struct gpu *gpu;
    int slice, status = find(device, &machine, &gpu, &slice);
    if (status != SUCCESS) return status;
    int index = gpu_index(device);
    struct process found[2 * MAX_PROCESSES];
    unsigned int total = 0;
    for (int row = 0; row < machine.foreign; row++) {
        const struct foreign *foreign = &machine.process[row];
        if (foreign->gpu != index) continue;
        found[total++] = (struct process){(unsigned int)foreign->pid,
                                          (unsigned long long)foreign->bytes, 0xFFFFFFFF, 0xFFFFFFFF};
    }
    usage_forget_dead();
    for (int row = 0; row < MAX_PROCESSES; row++) {
        struct usage *usage = &usage_table()[row];
        int64_t bytes = 0;
        for (int stage = 0; stage < STAGES; stage++) bytes += usage->bytes[index][stage];
        if (usage->pid <= 0 || bytes == 0) continue;
        found[total++] = (struct process){(unsigned int)usage->pid, (unsigned long long)bytes,
                                          0xFFFFFFFF, 0xFFFFFFFF};
    }
    unsigned int room = *count;
    *count = total;
    if (total == 0) return SUCCESS;
    if (processes == NULL || room < total) return INSUFFICIENT_SIZE;
    memcpy(processes, found, total * sizeof *found);
    return SUCCESS;
}

EXPORTED int nvmlDeviceGetGraphicsRunningProcesses_v3(handle device, unsigned int *count,
                                                      struct process *processes) {
    (void)processes;
    struct machine machine;
    const struct gpu *gpu;
    int slice, status = find(device, &machine, &gpu, &slice);
    if (status == SUCCESS) *count = 0;
    return status;
}

EXPORTED int nvmlDeviceGetMigMode(handle device, unsigned int *current, unsigned int *pending) {
    struct machine machine;
    const struct gpu *gpu;
    int slice, status = find(device, &machine, &gpu, &slice);
    if (status != SUCCESS) return status;
    if (slice != NO_INSTANCE) return INVALID_ARGUMENT;
    if (gpu->slices == 0) return NOT_SUPPORTED;
    *current = *pending = 1;
    return SUCCESS;
}

EXPORTED int nvmlDeviceGetMaxMigDeviceCount(handle device, unsigned int *count) {
    struct machine machine;
    const struct gpu *gpu;
    int slice, status = find(device, &machine, &gpu, &slice);
    if (status == SUCCESS) *count = gpu->slices > 0 ? MAX_SLICES : 0;
    return status;
}

EXPORTED int nvmlDeviceGetMigDeviceHandleByIndex(handle device, unsigned int index, handle *mig) {
    struct machine machine;
    const struct gpu *gpu;
    int slice, status = find(device, &machine, &gpu, &slice);
    if (status != SUCCESS) return status;
    if (index >= (unsigned int)gpu->slices) return NOT_FOUND;
    *mig = device + 1 + index;
    return SUCCESS;
}
