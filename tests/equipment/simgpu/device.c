/* Simulated GPUs as a ggml backend library.
 *
 * Memory is refused and counted as the shared control file says; graphs are computed by the CPU
 * backend, so the answers are the CPU's. Loaded by ggml_backend_load like any other backend.
 */
#include "gpus.h"
#include "ggml_abi.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGNMENT = 128, OFFLOAD_MIN_BATCH = 32, HANG_STEP_US = 20000 };

struct sim {
    int index;
    char name[NAME_BYTES];
    char bus_id[NAME_BYTES];
    struct device device;
    struct buffer_type buffer_type;
    int streams;      /* live streams; a context has one */
    bool scheduling;  /* a graph was split since the last stream began, so buffers are compute */
    bool pool_taken;
    struct gpu gpu; /* as last read */
};

struct block {
    void *memory;
    enum stage stage;
};

struct stream {
    struct backend backend;
    struct backend *cpu;
};

static struct sim sims[MAX_GPUS];
static size_t sim_count;
static struct registry registry;

static struct sim *of_device(struct device *device) { return device->context; }

static const struct gpu *gpu_now(struct sim *sim) {
    struct machine machine;
    machine_read(&machine);
    if (sim->index < machine.gpus) sim->gpu = machine.gpu[sim->index];
    return &sim->gpu;
}

static int64_t really_free(struct sim *sim) {
    const struct gpu *gpu = gpu_now(sim);
    if (gpu->lost) return 0;
    int64_t bytes = gpu->total - gpu->others - usage_bytes(sim->index);
    return bytes > 0 ? bytes : 0;
}

/* ---- memory ---- */

static bool take(struct sim *sim, enum stage stage, int64_t bytes) {
    const struct gpu *gpu = gpu_now(sim);
    struct usage *usage = usage_own();
    if (usage == NULL) return false;
    int64_t allocation = atomic_fetch_add(&usage->allocations[sim->index], 1);
    bool told = (gpu->refuse & (1 << stage)) != 0 ||
                (gpu->refuse_after > 0 && allocation >= gpu->refuse_after);
    if (gpu->lost || told || bytes > really_free(sim)) {
        atomic_fetch_add(&usage->refused[sim->index], 1);
        fprintf(stderr, "%s: allocating %.2f MiB: out of memory (simulated)\n", sim->name,
                (double)bytes / 1048576.0);
        return false;
    }
    atomic_fetch_add(&usage->bytes[sim->index][stage], bytes);
    return true;
}

static void give_back(struct sim *sim, enum stage stage, int64_t bytes) {
    struct usage *usage = usage_own();
    if (usage != NULL) atomic_fetch_sub(&usage->bytes[sim->index][stage], bytes);
}

/* llama.cpp allocates weights, opens a stream a context, allocates its KV cache, then splits
 * graphs to learn the size of the compute buffers. */
static enum stage stage_now(const struct sim *sim) {
    if (sim->streams == 0) return STAGE_WEIGHTS;
    return sim->scheduling ? STAGE_COMPUTE : STAGE_KV;
}

static void buffer_free(struct buffer *buffer) {
    struct block *block = buffer->context;
    munmap(block->memory, buffer->size);
    give_back(of_device(buffer->type->device), block->stage, (int64_t)buffer->size);
    free(block);
}

static void *buffer_base(struct buffer *buffer) {
    return ((struct block *)buffer->context)->memory;
}

static void buffer_memset(struct buffer *buffer, struct tensor *tensor, uint8_t value,
                          size_t offset, size_t size) {
    (void)buffer;
    memset(tensor->data + offset, value, size);
}

static void buffer_set(struct buffer *buffer, struct tensor *tensor, const void *data,
                       size_t offset, size_t size) {
    (void)buffer;
    memcpy(tensor->data + offset, data, size);
}

static void buffer_get(struct buffer *buffer, const struct tensor *tensor, void *data,
                       size_t offset, size_t size) {
    (void)buffer;
    memcpy(data, tensor->data + offset, size);
}

static bool ours(const struct buffer_type *type) {
    for (size_t index = 0; index < sim_count; index++) {
        if (type == &sims[index].buffer_type) return true;
    }
    return false;
}

static bool buffer_copy(struct buffer *buffer, const struct tensor *from, struct tensor *to) {
    (void)buffer;
    struct buffer_type *type = (from->view_src ? from->view_src : from)->buffer->type;
    if (!ours(type) && !ggml_backend_buft_is_host(type)) return false;
    memcpy(to->data, from->data, ggml_nbytes(from));
    return true;
}

static void buffer_clear(struct buffer *buffer, uint8_t value) {
    memset(buffer_base(buffer), value, buffer->size);
}

static const struct buffer_interface buffer_table = {
    .free_buffer = buffer_free,
    .get_base = buffer_base,
    .memset_tensor = buffer_memset,
    .set_tensor = buffer_set,
    .get_tensor = buffer_get,
    .cpy_tensor = buffer_copy,
    .clear = buffer_clear,
};

static struct buffer *type_alloc(struct buffer_type *type, size_t size) {
    struct sim *sim = of_device(type->device);
    enum stage stage = stage_now(sim);
    if (!take(sim, stage, (int64_t)size)) return NULL;
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct block *block = malloc(sizeof *block);
    if (memory == MAP_FAILED || block == NULL) abort();
    *block = (struct block){memory, stage};
    return ggml_backend_buffer_init(type, buffer_table, block, size);
}

static const char *type_name(struct buffer_type *type) { return of_device(type->device)->name; }

static size_t type_alignment(struct buffer_type *type) {
    (void)type;
    return ALIGNMENT;
}

static size_t type_alloc_size(struct buffer_type *type, const struct tensor *tensor) {
    int64_t padding = of_device(type->device)->gpu.row_padding;
    size_t size = ggml_nbytes(tensor);
    if (padding > 0 && ggml_is_quantized(tensor->type) && tensor->ne[0] % padding != 0) {
        size += ggml_row_size(tensor->type, padding - tensor->ne[0] % padding);
    }
    return size;
}

/* ---- streams ---- */

static const char *stream_name(struct backend *backend) {
    return of_device(backend->device)->name;
}

static void stream_free(struct backend *backend) {
    struct stream *stream = backend->context;
    struct sim *sim = of_device(backend->device);
    ggml_backend_free(stream->cpu);
    sim->streams--;
    free(stream);
}

static void stream_nothing(struct backend *backend) { (void)backend; }

static void stream_event(struct backend *backend, struct event *event) {
    (void)backend;
    (void)event;
}

static void die(const struct sim *sim, const char *why) {
    fprintf(stderr, "%s: %s (simulated)\n", sim->name, why);
    abort(); /* as ggml's CUDA backend does */
}

static int stream_compute(struct backend *backend, struct graph *graph) {
    struct stream *stream = backend->context;
    struct sim *sim = of_device(backend->device);
    struct usage *usage = usage_own();
    const struct gpu *gpu = gpu_now(sim);
    if (gpu->lost) die(sim, "the gpu is lost");
    if (!sim->pool_taken && gpu->pool > 0) {
        if (!take(sim, STAGE_DRIVER, gpu->pool)) die(sim, "no memory for the pool");
        sim->pool_taken = true;
    }
    int64_t graphs = usage ? atomic_fetch_add(&usage->graphs[sim->index], 1) : 0;
    if (graphs >= gpu->compute_after) {
        while (gpu->compute == COMPUTE_HANG) {
            usleep(HANG_STEP_US);
            gpu = gpu_now(sim);
        }
        if (gpu->compute == COMPUTE_FAIL) return STATUS_FAILED;
        if (gpu->compute == COMPUTE_ALLOC_FAILED) return STATUS_ALLOC_FAILED;
        if (gpu->compute == COMPUTE_ABORT) die(sim, "an illegal memory access");
    }
    return ggml_backend_graph_compute(stream->cpu, graph);
}

static void stream_set_threads(struct backend *backend, int threads) {
    struct stream *stream = backend->context;
    struct registry *cpu = ggml_backend_dev_backend_reg(stream->cpu->device);
    void (*set)(struct backend *, int) =
        (void (*)(struct backend *, int))ggml_backend_reg_get_proc_address(
            cpu, "ggml_backend_set_n_threads");
    if (set != NULL) set(stream->cpu, threads);
}

static struct device *cpu_device(void) {
    static struct device *cpu;
    if (cpu == NULL) cpu = ggml_backend_dev_by_type(0);
    return cpu;
}

static struct backend *device_stream(struct device *device, const char *parameters) {
    (void)parameters;
    static const uint8_t guid[16] = "underkeel-sim-01";
    struct sim *sim = of_device(device);
    struct usage *usage = usage_own();
    const struct gpu *gpu = gpu_now(sim);
    bool first = usage != NULL && usage->bytes[sim->index][STAGE_DRIVER] == 0;
    if (first && gpu->context > 0 && !take(sim, STAGE_DRIVER, gpu->context)) return NULL;
    struct stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL) abort();
    stream->cpu = ggml_backend_dev_init(cpu_device(), NULL);
    stream->backend = (struct backend){
        .guid = guid,
        .get_name = stream_name,
        .free = stream_free,
        .synchronize = stream_nothing,
        .graph_compute = stream_compute,
        .event_record = stream_event,
        .event_wait = stream_event,
        .device = device,
        .context = stream,
    };
    sim->streams++;
    sim->scheduling = false;
    return &stream->backend;
}

/* ---- devices ---- */

static const char *device_name(struct device *device) { return of_device(device)->name; }

static void device_memory(struct device *device, size_t *free_bytes, size_t *total) {
    struct sim *sim = of_device(device);
    int64_t claimed = really_free(sim) + (sim->gpu.lost ? 0 : sim->gpu.overstate);
    *total = sim->gpu.lost ? 0 : (size_t)sim->gpu.total;
    *free_bytes = claimed > sim->gpu.total ? *total : (size_t)claimed;
}

static int device_type(struct device *device) {
    (void)device;
    return DEVICE_TYPE_GPU;
}

static void device_props(struct device *device, struct device_properties *properties) {
    properties->name = properties->description = device_name(device);
    properties->type = DEVICE_TYPE_GPU;
    properties->device_id = of_device(device)->bus_id;
    device_memory(device, &properties->memory_free, &properties->memory_total);
    /* work is done at once, so the events of the pipelined schedule need do nothing */
    properties->capabilities.async = properties->capabilities.events = true;
    properties->capabilities.mmap = true;
}

static struct buffer_type *device_buffer_type(struct device *device) {
    return &of_device(device)->buffer_type;
}

static bool device_supports_op(struct device *device, const struct tensor *op) {
    of_device(device)->scheduling = true;
    return ggml_backend_dev_supports_op(cpu_device(), op);
}

static bool device_supports_type(struct device *device, struct buffer_type *type) {
    return type == &of_device(device)->buffer_type;
}

static bool named(const struct tensor *op, const char *name) {
    return strcmp(ggml_op_name(op->op), name) == 0;
}

/* As ggml's CUDA backend decides it. */
static bool device_offload_op(struct device *device, const struct tensor *op) {
    (void)device;
    if (named(op, "GET_ROWS")) return false;
    if (named(op, "MUL_MAT")) return op->ne[1] >= OFFLOAD_MIN_BATCH;
    if (named(op, "MUL_MAT_ID") || named(op, "ROPE")) return op->ne[2] >= OFFLOAD_MIN_BATCH;
    return ggml_nrows(op) >= OFFLOAD_MIN_BATCH;
}

static struct event *device_event(struct device *device) {
    struct event *event = calloc(1, sizeof *event);
    if (event != NULL) event->device = device;
    return event;
}

static void device_event_free(struct device *device, struct event *event) {
    (void)device;
    free(event);
}

static void device_event_wait(struct device *device, struct event *event) {
    (void)device;
    (void)event;
}

static void sim_make(struct sim *sim, int index, const struct gpu *gpu) {
    sim->index = index;
    sim->gpu = *gpu;
    memcpy(sim->name, gpu->name, sizeof sim->name);
    snprintf(sim->bus_id, sizeof sim->bus_id, "0000:%02x:00.0", index + 1); /* as in nvml.c */
    sim->device = (struct device){
        .get_name = device_name,
        .get_description = device_name,
        .get_memory = device_memory,
        .get_type = device_type,
        .get_props = device_props,
        .init_backend = device_stream,
        .get_buffer_type = device_buffer_type,
        .supports_op = device_supports_op,
        .supports_buft = device_supports_type,
        .offload_op = device_offload_op,
        .event_new = device_event,
        .event_free = device_event_free,
        .event_synchronize = device_event_wait,
        .registry = &registry,
        .context = sim,
    };
    sim->buffer_type = (struct buffer_type){
        .get_name = type_name,
        .alloc_buffer = type_alloc,
        .get_alignment = type_alignment,
        .get_alloc_size = type_alloc_size,
        .device = &sim->device,
    };
}

/* ---- the plug-in ---- */

static const char *registry_name(struct registry *self) {
    (void)self;
    return "SIM";
}

static size_t registry_count(struct registry *self) {
    (void)self;
    return sim_count;
}

static struct device *registry_device(struct registry *self, size_t index) {
    (void)self;
    return &sims[index].device;
}

static void *registry_function(struct registry *self, const char *name) {
    (void)self;
    return strcmp(name, "ggml_backend_set_n_threads") == 0 ? (void *)stream_set_threads : NULL;
}

__attribute__((visibility("default"))) struct registry *ggml_backend_init(void) {
    struct machine machine;
    machine_read(&machine);
    for (int index = 0; index < machine.gpus; index++) {
        sim_make(&sims[index], index, &machine.gpu[index]);
    }
    sim_count = (size_t)machine.gpus;
    registry = (struct registry){
        .api_version = ABI_VERSION,
        .get_name = registry_name,
        .get_device_count = registry_count,
        .get_device = registry_device,
        .get_proc_address = registry_function,
    };
    return &registry;
}
