/* A small libnvidia-ml.so.1: what it answers stands in the text file $NVML_STUB, one "key value"
 * per line, read anew at every call, so that a test changes a GPU while it is being watched.
 *
 *   init 0             code of nvmlInit          driver 550.54.15      cuda 12040      count 2
 *   0.memory_used 80530636800    bytes; likewise memory_total, utilization (%), temperature (C),
 *                      power (mW), ecc, name, uuid, bus, processes ("PID BYTES PID BYTES")
 *   0.temperature !3   that call answers with code 3 (NOT_SUPPORTED)
 *   0.lost 1           every call on GPU 0 answers GPU_IS_LOST
 *   0.handle !4        no handle is given out
 *   0.hang 30          memory answers after so many seconds
 *   events !3          no event set;  0.events !3: none of this GPU
 *   event 0 79         an Xid of GPU 0; every such line is delivered once, in order
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK, INVALID = 2, UNSUPPORTED = 3, SMALL = 7, NOT_LOADED = 9, TIMEOUT = 10, LOST = 15 };
typedef struct { int index; } gpu_t;
static gpu_t gpus[16];
static int delivered, sets, inits;

static int look(const char *key, char *value, size_t size) {
    char line[512], *path = getenv("NVML_STUB");
    FILE *file = path ? fopen(path, "r") : NULL;
    int found = 0;
    while (file && !found && fgets(line, sizeof line, file)) {
        size_t n = strlen(key);
        if (!strncmp(line, key, n) && line[n] == ' ') {
            line[strcspn(line, "\n")] = 0;
            snprintf(value, size, "%s", line + n + 1);
            found = 1;
        }
    }
    if (file) fclose(file);
    return found;
}

/* The value of one GPU's key, or the code that its call answers with. */
static int ask(gpu_t *gpu, const char *what, char *value, size_t size) {
    char key[64];
    *value = 0;
    if (gpu < gpus || gpu >= gpus + 16) return INVALID;
    snprintf(key, sizeof key, "%d.lost", gpu->index);
    if (look(key, value, size) && *value == '1') return LOST;
    snprintf(key, sizeof key, "%d.%s", gpu->index, what);
    if (!look(key, value, size)) return UNSUPPORTED;
    return *value == '!' ? atoi(value + 1) : OK;
}

static int number(gpu_t *gpu, const char *what, unsigned long long *value) {
    char text[256];
    int code = ask(gpu, what, text, sizeof text);
    if (!code) *value = strtoull(text, NULL, 10);
    return code;
}

int nvmlInitWithFlags(unsigned flags) {
    char text[64];
    (void)flags;
    if (!look("init", text, sizeof text)) return NOT_LOADED;
    if (!atoi(text)) inits++;
    return atoi(text);
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { inits--; return OK; }
int stubOpen(void) { return inits + sets; }
const char *nvmlErrorString(int code) {
    static char text[32];
    snprintf(text, sizeof text, "stub error %d", code);
    return text;
}
int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    return look("driver", out, size) ? OK : UNSUPPORTED;
}
int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    char text[64];
    if (!look("cuda", text, sizeof text)) return UNSUPPORTED;
    *out = atoi(text);
    return OK;
}
int nvmlSystemGetProcessName(unsigned pid, char *out, unsigned size) {
    snprintf(out, size, "/usr/bin/process-%u", pid);
    return OK;
}
int nvmlDeviceGetCount_v2(unsigned *out) {
    char text[64];
    *out = look("count", text, sizeof text) ? (unsigned)atoi(text) : 0;
    return OK;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, gpu_t **out) {
    char text[64];
    if (index >= 16) return INVALID;
    gpus[index].index = (int)index;
    int code = ask(&gpus[index], "handle", text, sizeof text);
    *out = &gpus[index];
    return code == UNSUPPORTED && !*text ? OK : code;
}
int nvmlDeviceGetName(gpu_t *gpu, char *out, unsigned size) { return ask(gpu, "name", out, size); }
int nvmlDeviceGetUUID(gpu_t *gpu, char *out, unsigned size) { return ask(gpu, "uuid", out, size); }

typedef struct {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
} pci_t;
int nvmlDeviceGetPciInfo_v3(gpu_t *gpu, pci_t *out) {
    return ask(gpu, "bus", out->bus_id, sizeof out->bus_id);
}

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory2_t;
static int memory(gpu_t *gpu, unsigned long long *total, unsigned long long *used) {
    unsigned long long seconds = 0;
    if (!number(gpu, "hang", &seconds)) sleep((unsigned)seconds);
    int code = number(gpu, "memory_total", total);
    return code ? code : number(gpu, "memory_used", used);
}
int nvmlDeviceGetMemoryInfo(gpu_t *gpu, memory_t *out) {
    int code = memory(gpu, &out->total, &out->used);
    out->free = out->total - out->used;
    return code;
}
int nvmlDeviceGetMemoryInfo_v2(gpu_t *gpu, memory2_t *out) {
    char text[64];
    if (look("old", text, sizeof text)) return 25; /* ARGUMENT_VERSION_MISMATCH */
    int code = memory(gpu, &out->total, &out->used);
    out->free = out->total - out->used;
    return code;
}
int nvmlDeviceGetUtilizationRates(gpu_t *gpu, unsigned out[2]) {
    unsigned long long value = 0;
    int code = number(gpu, "utilization", &value);
    out[0] = (unsigned)value;
    return code;
}
int nvmlDeviceGetTemperature(gpu_t *gpu, int sensor, unsigned *out) {
    unsigned long long value = 0;
    int code = number(gpu, "temperature", &value);
    (void)sensor;
    *out = (unsigned)value;
    return code;
}
typedef struct { unsigned version; int sensor, celsius; } celsius_t;
int nvmlDeviceGetTemperatureV(gpu_t *gpu, celsius_t *out) {
    unsigned value = 0;
    char text[64];
    if (look("old", text, sizeof text)) return 13; /* FUNCTION_NOT_FOUND */
    int code = nvmlDeviceGetTemperature(gpu, out->sensor, &value);
    out->celsius = (int)value;
    return code;
}
int nvmlDeviceGetPowerUsage(gpu_t *gpu, unsigned *out) {
    unsigned long long value = 0;
    int code = number(gpu, "power", &value);
    *out = (unsigned)value;
    return code;
}
int nvmlDeviceGetTotalEccErrors(gpu_t *gpu, int kind, int counter, unsigned long long *out) {
    return kind == 1 && counter == 0 ? number(gpu, "ecc", out) : INVALID;
}

typedef struct {
    unsigned pid;
    unsigned long long bytes;
    unsigned instance, compute;
} process_t;
int nvmlDeviceGetComputeRunningProcesses_v3(gpu_t *gpu, unsigned *count, process_t *out) {
    char text[256];
    unsigned room = *count, n = 0;
    int code = ask(gpu, "processes", text, sizeof text);
    if (code == UNSUPPORTED) { *count = 0; return OK; }
    if (code) return code;
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " ")) {
        char *bytes = strtok(NULL, " ");
        if (n < room && out) {
            out[n].pid = (unsigned)atoi(word);
            out[n].bytes = bytes ? strtoull(bytes, NULL, 10) : 0;
        }
        n++;
    }
    *count = n;
    return n > room ? SMALL : OK;
}

typedef struct {
    gpu_t *gpu;
    unsigned long long type, data;
    unsigned instance, compute;
} event_t;
int nvmlEventSetCreate(void **out) {
    char text[64];
    if (look("events", text, sizeof text)) return atoi(text + 1);
    *out = &sets;
    sets++;
    return OK;
}
int nvmlEventSetFree(void *set) { (void)set; sets--; return OK; }
int nvmlDeviceRegisterEvents(gpu_t *gpu, unsigned long long types, void *set) {
    char text[64];
    int code = ask(gpu, "events", text, sizeof text);
    if (set != &sets || !(types & 8)) return INVALID;
    return code == UNSUPPORTED && !*text ? OK : code; /* no such line: it has them */
}
int nvmlEventSetWait_v2(void *set, event_t *out, unsigned ms) {
    char line[256], *path = getenv("NVML_STUB");
    FILE *file = path ? fopen(path, "r") : NULL;
    int index, xid, seen = 0;
    (void)ms;
    if (set != &sets) return INVALID;
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "event %d %d", &index, &xid) == 2 && seen++ == delivered) {
            delivered++;
            fclose(file);
            *out = (event_t){&gpus[index], 8, (unsigned long long)xid, 0, 0};
            return OK;
        }
    if (file) fclose(file);
    return TIMEOUT;
}
