#include "gpus.h"

#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { TEXT_BYTES = 16384, PATH_BYTES = 4096 };

struct key {
    const char *name;
    size_t offset;
};

static const struct key gpu_keys[] = {
    {"total", offsetof(struct gpu, total)},
    {"others", offsetof(struct gpu, others)},
    {"overstate", offsetof(struct gpu, overstate)},
    {"context", offsetof(struct gpu, context)},
    {"pool", offsetof(struct gpu, pool)},
    {"row_padding", offsetof(struct gpu, row_padding)},
    {"refuse", offsetof(struct gpu, refuse)},
    {"refuse_after", offsetof(struct gpu, refuse_after)},
    {"compute", offsetof(struct gpu, compute)},
    {"compute_after", offsetof(struct gpu, compute_after)},
    {"lost", offsetof(struct gpu, lost)},
    {NULL, 0},
};

static const struct key slice_keys[] = {
    {"total", offsetof(struct slice, total)},
    {"others", offsetof(struct slice, others)},
    {NULL, 0},
};

static const struct key foreign_keys[] = {
    {"pid", offsetof(struct foreign, pid)},
    {"bytes", offsetof(struct foreign, bytes)},
    {NULL, 0},
};

static const struct key machine_keys[] = {
    {"loaded", offsetof(struct machine, driver_loaded)},
    {NULL, 0},
};

static bool file_path(char *path, const char *name) {
    const char *folder = getenv("UNDERKEEL_SIMCARDS");
    if (folder == NULL || *folder == '\0') return false;
    int length = snprintf(path, PATH_BYTES, "%s/%s", folder, name);
    return length > 0 && length < PATH_BYTES;
}

static bool read_text(char *text) {
    char path[PATH_BYTES];
    if (!file_path(path, "gpus")) return false;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    ssize_t length = read(file, text, TEXT_BYTES - 1);
    close(file);
    if (length < 0) return false;
    text[length] = '\0';
    return true;
}

/* Set the fields of `object` from the rest of a line, "key=value key=value". */
static void read_pairs(void *object, const struct key *keys, char **rest) {
    char *word;
    while ((word = strtok_r(NULL, " \t", rest)) != NULL) {
        char *equals = strchr(word, '=');
        if (equals == NULL) continue;
        *equals = '\0';
        for (const struct key *key = keys; key->name != NULL; key++) {
            if (strcmp(key->name, word) != 0) continue;
            int64_t value = strtoll(equals + 1, NULL, 10);
            memcpy((char *)object + key->offset, &value, sizeof value);
        }
    }
}

static int find_gpu(const struct machine *machine, const char *name) {
    for (int index = 0; index < machine->gpus; index++) {
        if (strcmp(machine->gpu[index].name, name) == 0) return index;
    }
    return -1;
}

static void read_line(struct machine *machine, char *line) {
    char *rest = NULL;
    const char *kind = strtok_r(line, " \t", &rest);
    if (kind == NULL || *kind == '#') return;
    if (strcmp(kind, "driver") == 0) {
        read_pairs(machine, machine_keys, &rest);
        return;
    }
    const char *name = strtok_r(NULL, " \t", &rest);
    if (name == NULL) return;
    if (strcmp(kind, "gpu") == 0 && machine->gpus < MAX_GPUS) {
        struct gpu *gpu = &machine->gpu[machine->gpus++];
        snprintf(gpu->name, sizeof gpu->name, "%s", name);
        read_pairs(gpu, gpu_keys, &rest);
        return;
    }
    int gpu = find_gpu(machine, name);
    if (gpu < 0) return;
    if (strcmp(kind, "slice") == 0 && machine->gpu[gpu].slices < MAX_SLICES) {
        struct gpu *owner = &machine->gpu[gpu];
        read_pairs(&owner->slice[owner->slices++], slice_keys, &rest);
    } else if (strcmp(kind, "process") == 0 && machine->foreign < MAX_PROCESSES) {
        struct foreign *process = &machine->process[machine->foreign++];
        process->gpu = gpu;
        read_pairs(process, foreign_keys, &rest);
    }
}

void machine_read(struct machine *machine) {
    char text[TEXT_BYTES];
    memset(machine, 0, sizeof *machine);
    machine->readable = read_text(text);
    if (!machine->readable) return;
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        read_line(machine, line);
    }
}

struct usage *usage_table(void) {
    static struct usage *table;
    if (table != NULL) return table;
    char path[PATH_BYTES];
    size_t bytes = MAX_PROCESSES * sizeof(struct usage);
    int file = file_path(path, "usage") ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    int flags = MAP_SHARED;
    if (file < 0 || ftruncate(file, (off_t)bytes) != 0) flags = MAP_PRIVATE | MAP_ANONYMOUS;
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, file, 0);
    if (file >= 0) close(file);
    if (map == MAP_FAILED) abort();
    table = map;
    return table;
}

struct usage *usage_own(void) {
    static struct usage *own;
    if (own != NULL && own->pid == getpid()) return own;
    usage_forget_dead();
    for (int row = 0; row < MAX_PROCESSES; row++) {
        int64_t nobody = 0;
        struct usage *usage = &usage_table()[row];
        if (atomic_compare_exchange_strong(&usage->pid, &nobody, getpid())) return own = usage;
    }
    return NULL;
}

/* A zombie holds no memory, though its id is still taken. */
static bool alive(int64_t pid) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return false;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    if (length <= 0) return false;
    text[length] = '\0';
    const char *name_end = strrchr(text, ')');
    return name_end != NULL && strchr("ZX", name_end[2]) == NULL;
}

void usage_forget_dead(void) {
    for (int row = 0; row < MAX_PROCESSES; row++) {
        struct usage *usage = &usage_table()[row];
        int64_t pid = usage->pid;
        if (pid <= 0 || alive(pid)) continue;
        /* -1 keeps others away from the row until it is clean */
        if (!atomic_compare_exchange_strong(&usage->pid, &pid, -1)) continue;
        for (int gpu = 0; gpu < MAX_GPUS; gpu++) {
            for (int stage = 0; stage < STAGES; stage++) usage->bytes[gpu][stage] = 0;
            usage->allocations[gpu] = usage->refused[gpu] = usage->graphs[gpu] = 0;
        }
        usage->pid = 0;
    }
}

int64_t usage_bytes(int gpu) {
    usage_forget_dead();
    int64_t sum = 0;
    for (int row = 0; row < MAX_PROCESSES; row++) {
        struct usage *usage = &usage_table()[row];
        if (usage->pid <= 0) continue;
        for (int stage = 0; stage < STAGES; stage++) sum += usage->bytes[gpu][stage];
    }
    return sum;
}
