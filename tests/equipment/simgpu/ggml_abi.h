/* The part of ggml's backend interface, API version 2, that a plug-in device needs.
 *
 * Only layouts and signatures: the names of the tables' fields are what ggml calls through them.
 * The version is checked by ggml when it loads the library.
 */
#ifndef GGML_ABI_H
#define GGML_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ABI_VERSION = 2, STATUS_ALLOC_FAILED = -2, STATUS_FAILED = -1, DEVICE_TYPE_GPU = 1 };

struct buffer;
struct buffer_type;
struct device;
struct backend;
struct registry;
struct graph;

/* The head of ggml_tensor; the rest is never touched. */
struct tensor {
    int type;
    struct buffer *buffer;
    int64_t ne[4];
    size_t nb[4];
    int op;
    int32_t op_params[16];
    int32_t flags;
    struct tensor *src[10];
    struct tensor *view_src;
    size_t view_offset;
    char *data;
};

struct buffer_type {
    const char *(*get_name)(struct buffer_type *);
    struct buffer *(*alloc_buffer)(struct buffer_type *, size_t);
    size_t (*get_alignment)(struct buffer_type *);
    size_t (*get_max_size)(struct buffer_type *);
    size_t (*get_alloc_size)(struct buffer_type *, const struct tensor *);
    bool (*is_host)(struct buffer_type *);
    struct device *device;
    void *context;
};

struct buffer_interface {
    void (*free_buffer)(struct buffer *);
    void *(*get_base)(struct buffer *);
    int (*init_tensor)(struct buffer *, struct tensor *);
    void (*memset_tensor)(struct buffer *, struct tensor *, uint8_t, size_t, size_t);
    void (*set_tensor)(struct buffer *, struct tensor *, const void *, size_t, size_t);
    void (*get_tensor)(struct buffer *, const struct tensor *, void *, size_t, size_t);
    void (*set_tensor_2d)(void);
    void (*get_tensor_2d)(void);
    bool (*cpy_tensor)(struct buffer *, const struct tensor *, struct tensor *);
    void (*clear)(struct buffer *, uint8_t);
    void (*reset)(struct buffer *);
};

struct buffer {
    struct buffer_interface iface;
    struct buffer_type *type;
    void *context;
    size_t size;
    int usage;
};

struct event {
    struct device *device;
    void *context;
};

struct backend {
    const uint8_t *guid;
    const char *(*get_name)(struct backend *);
    void (*free)(struct backend *);
    void (*set_tensor_async)(void);
    void (*get_tensor_async)(void);
    void (*set_tensor_2d_async)(void);
    void (*get_tensor_2d_async)(void);
    void (*cpy_tensor_async)(void);
    void (*synchronize)(struct backend *);
    void (*graph_plan_create)(void);
    void (*graph_plan_free)(void);
    void (*graph_plan_update)(void);
    void (*graph_plan_compute)(void);
    int (*graph_compute)(struct backend *, struct graph *);
    void (*event_record)(struct backend *, struct event *);
    void (*event_wait)(struct backend *, struct event *);
    void (*graph_optimize)(void);
    struct device *device;
    void *context;
};

struct device_properties {
    const char *name;
    const char *description;
    size_t memory_free;
    size_t memory_total;
    int type;
    const char *device_id;
    struct {
        bool async, host_buffer, buffer_from_host_ptr, events, mmap;
    } capabilities;
};

struct device {
    const char *(*get_name)(struct device *);
    const char *(*get_description)(struct device *);
    void (*get_memory)(struct device *, size_t *free, size_t *total);
    int (*get_type)(struct device *);
    void (*get_props)(struct device *, struct device_properties *);
    struct backend *(*init_backend)(struct device *, const char *parameters);
    struct buffer_type *(*get_buffer_type)(struct device *);
    struct buffer_type *(*get_host_buffer_type)(struct device *);
    struct buffer *(*buffer_from_host_ptr)(struct device *, void *, size_t, size_t);
    bool (*supports_op)(struct device *, const struct tensor *);
    bool (*supports_buft)(struct device *, struct buffer_type *);
    bool (*offload_op)(struct device *, const struct tensor *);
    struct event *(*event_new)(struct device *);
    void (*event_free)(struct device *, struct event *);
    void (*event_synchronize)(struct device *, struct event *);
    struct registry *registry;
    void *context;
};

struct registry {
    int api_version;
    const char *(*get_name)(struct registry *);
    size_t (*get_device_count)(struct registry *);
    struct device *(*get_device)(struct registry *, size_t);
    void *(*get_proc_address)(struct registry *, const char *);
    void *context;
};

/* Exported by libggml-base and libggml, which the process has loaded already. */
extern struct buffer *ggml_backend_buffer_init(
    struct buffer_type *, struct buffer_interface, void *context, size_t);
extern bool ggml_backend_buft_is_host(struct buffer_type *);
extern struct device *ggml_backend_dev_by_type(int);
extern struct backend *ggml_backend_dev_init(struct device *, const char *);
extern bool ggml_backend_dev_supports_op(struct device *, const struct tensor *);
extern struct registry *ggml_backend_dev_backend_reg(struct device *);
extern void *ggml_backend_reg_get_proc_address(struct registry *, const char *);
extern int ggml_backend_graph_compute(struct backend *, struct graph *);
extern void ggml_backend_free(struct backend *);
extern const char *ggml_op_name(int);
extern size_t ggml_nbytes(const struct tensor *);
extern int64_t ggml_nrows(const struct tensor *);
extern size_t ggml_row_size(int type, int64_t elements);
extern bool ggml_is_quantized(int type);

#endif
