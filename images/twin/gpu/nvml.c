/* libnvidia-ml.so.1 of the digital twin: answers NVML calls from the ledger that the twin's GPU observer writes.
 *
 * It holds no state of its own: each call reads /run/twin-gpu/ledger (TWIN_GPU_LEDGER names another one), which the
 * observer replaces atomically. Only what nvidia-ml-py, nvidia-smi and monitoring programs commonly call is here.
 * Structures and codes follow NVIDIA's published NVML API reference.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define LEDGER_DEFAULT "/run/twin-gpu/ledger"
/* On a file system that never answers, where a drill has mounted one: who opens it sleeps in the kernel. */
#define STUCK "/run/twin-gpu/stuck/driver"
#define HANG_IN_KERNEL 1
#define MAX_PROCESSES 64
#define STALE_S 10
#define NOT_AVAILABLE 0xFFFFFFFFFFFFFFFFULL
#define MIB (1024ULL * 1024ULL)

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15, ARGUMENT_VERSION_MISMATCH = 25, UNKNOWN = 999
};

typedef struct { unsigned long long total, free, used; } memory_v1;
typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } memory_v2;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gpu_instance, compute_instance; } process_v2;
typedef struct { unsigned int pid; unsigned long long used; } process_v1;
typedef struct { unsigned int gpu, memory; } utilization;
typedef struct {
    char bus_id_legacy[16];
    unsigned int domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} pci_info;
typedef struct { unsigned int version, sensor; int temperature; } temperature_v1;

typedef struct { unsigned int pid; long long mib; char type[4]; char command[256]; } holder;
typedef struct {
    unsigned long long total_mib, reserved_mib, used_mib;
    unsigned int temperature_c, power_mw, utilization_percent, sm_mhz, memory_mhz, fan_percent;
    unsigned long long energy_mj, throttle_reasons;
    char unsupported[128];
    char fault[32];
    int fault_code;
    unsigned int count;
    holder holders[MAX_PROCESSES];
} ledger;

/* The one device; its address is its handle. */
static int the_device;
static int initialized;

static const char *ledger_path(void)
{
    const char *path = getenv("TWIN_GPU_LEDGER");
    return path != NULL && *path != '\0' ? path : LEDGER_DEFAULT;
}

/* The kernel's wall clock, past a preloaded library that makes this process's clocks jump: no driver reads them. */
static time_t kernel_time_s(void)
{
    struct timespec now = {0, 0};
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    return now.tv_sec;
}

/* Read the ledger; SUCCESS, or the code a broken driver would answer. */
static int read_ledger(ledger *card)
{
    memset(card, 0, sizeof *card);
    strcpy(card->fault, "none");
    FILE *file = fopen(ledger_path(), "re");
    if (file == NULL)
        return DRIVER_NOT_LOADED;
    struct stat status;
    /* An observer that died must not leave a ledger that looks alive. */
    int stale = fstat(fileno(file), &status) == 0 && kernel_time_s() - status.st_mtime > STALE_S;
    char line[512];
    while (fgets(line, sizeof line, file) != NULL) {
        holder *next = &card->holders[card->count];
        line[strcspn(line, "\n")] = '\0';
        if (card->count < MAX_PROCESSES
            && sscanf(line, "process %u %lld %3s %255[^\n]", &next->pid, &next->mib, next->type, next->command) == 4) {
            card->count++;
            continue;
        }
        sscanf(line, "total_mib %llu", &card->total_mib);
        sscanf(line, "reserved_mib %llu", &card->reserved_mib);
        sscanf(line, "used_mib %llu", &card->used_mib);
        sscanf(line, "temperature_c %u", &card->temperature_c);
        sscanf(line, "power_mw %u", &card->power_mw);
        sscanf(line, "utilization_percent %u", &card->utilization_percent);
        sscanf(line, "sm_mhz %u", &card->sm_mhz);
        sscanf(line, "memory_mhz %u", &card->memory_mhz);
        sscanf(line, "fan_percent %u", &card->fan_percent);
        sscanf(line, "energy_mj %llu", &card->energy_mj);
        sscanf(line, "throttle_reasons %llx", &card->throttle_reasons);
        sscanf(line, "unsupported %127s", card->unsupported);
        sscanf(line, "fault %31s %d", card->fault, &card->fault_code);
    }
    fclose(file);
    return stale ? GPU_IS_LOST : SUCCESS;
}

/* Read the ledger for a call, with the faults that are switched on: an error code, or a call that does not return. */
static int card_for_call(ledger *card)
{
    if (!initialized)
        return UNINITIALIZED;
    for (;;) {
        int code = read_ledger(card);
        if (code != SUCCESS)
            return code;
        if (strcmp(card->fault, "hang") != 0)
            break;
        if (card->fault_code == HANG_IN_KERNEL) {
            FILE *file = fopen(STUCK, "re");
            if (file != NULL)
                fclose(file);
        }
        usleep(50 * 1000);
    }
    return strcmp(card->fault, "error") == 0 ? card->fault_code : SUCCESS;
}

static int put_text(char *target, unsigned int length, const char *text)
{
    if (target == NULL)
        return INVALID_ARGUMENT;
    if (strlen(text) + 1 > length)
        return INSUFFICIENT_SIZE;
    strcpy(target, text);
    return SUCCESS;
}

#define NEED(pointer) do { if ((pointer) == NULL) return INVALID_ARGUMENT; } while (0)
#define DEVICE(handle) do { if ((handle) != (void *)&the_device) return INVALID_ARGUMENT; } while (0)
#define CARD(handle) ledger card; DEVICE(handle); \
    do { int code_ = card_for_call(&card); if (code_ != SUCCESS) return code_; } while (0)

/* Some drivers can't tell everything: what the ledger names as unsupported is refused, and nothing else suffers. */
#define TELLS(what) do { if (strstr(card.unsupported, what) != NULL) return NOT_SUPPORTED; } while (0)

/* ---- library ---- */

API int nvmlInitWithFlags(unsigned int flags)
{
    (void)flags;
    ledger card;
    int code = read_ledger(&card);
    if (code == DRIVER_NOT_LOADED)
        return code;
    if (strcmp(card.fault, "init_error") == 0)
        return card.fault_code;
    initialized++;
    return SUCCESS;
}

API int nvmlInit(void) { return nvmlInitWithFlags(0); }
API int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

API int nvmlShutdown(void)
{
    if (!initialized)
        return UNINITIALIZED;
    initialized--;
    return SUCCESS;
}

API const char *nvmlErrorString(int code)
{
    switch (code) {
    case SUCCESS: return "The operation was successful";
    case UNINITIALIZED: return "Uninitialized";
    case INVALID_ARGUMENT: return "Invalid Argument";
    case NOT_SUPPORTED: return "Not Supported";
    case NOT_FOUND: return "Not Found";
    case INSUFFICIENT_SIZE: return "Insufficient Size";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case GPU_IS_LOST: return "GPU is lost";
    case ARGUMENT_VERSION_MISMATCH: return "Argument Version Mismatch";
    default: return "Unknown Error";
    }
}

API int nvmlSystemGetDriverVersion(char *text, unsigned int length) { return put_text(text, length, "575.64.03"); }
API int nvmlSystemGetNVMLVersion(char *text, unsigned int length) { return put_text(text, length, "12.575.64.03"); }

API int nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    NEED(version);
    *version = 12090;
    return SUCCESS;
}

API int nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }

API int nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length)
{
    ledger card;
    int code = card_for_call(&card);
    if (code != SUCCESS)
        return code;
    for (unsigned int i = 0; i < card.count; i++)
        if (card.holders[i].pid == pid)
            return put_text(name, length, card.holders[i].command);
    return NOT_FOUND;
}

/* ---- the device ---- */

API int nvmlDeviceGetCount_v2(unsigned int *count)
{
    ledger card;
    NEED(count);
    int code = card_for_call(&card);
    *count = 1;
    return code;
}

API int nvmlDeviceGetCount(unsigned int *count) { return nvmlDeviceGetCount_v2(count); }

API int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle)
{
    ledger card;
    NEED(handle);
    int code = card_for_call(&card);
    if (code != SUCCESS)
        return code;
    if (index != 0)
        return INVALID_ARGUMENT;
    *handle = &the_device;
    return SUCCESS;
}

API int nvmlDeviceGetHandleByIndex(unsigned int index, void **handle)
{
    return nvmlDeviceGetHandleByIndex_v2(index, handle);
}

#define UUID "GPU-7d1f0c52-5b0e-4f8a-9a53-0e11ab57a2c4"
#define BUS_ID "00000000:01:00.0"

API int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle)
{
    NEED(uuid);
    return strcmp(uuid, UUID) == 0 ? nvmlDeviceGetHandleByIndex_v2(0, handle) : NOT_FOUND;
}

API int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **handle)
{
    NEED(bus_id);
    return strcasecmp(bus_id, BUS_ID) == 0 ? nvmlDeviceGetHandleByIndex_v2(0, handle) : NOT_FOUND;
}

API int nvmlDeviceGetName(void *handle, char *name, unsigned int length)
{
    CARD(handle);
    return put_text(name, length, "NVIDIA GeForce RTX 5070 Ti");
}

API int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned int length)
{
    CARD(handle);
    return put_text(uuid, length, UUID);
}

static int give_number(void *handle, unsigned int *target, unsigned int value)
{
    CARD(handle);
    NEED(target);
    *target = value;
    return SUCCESS;
}

API int nvmlDeviceGetIndex(void *handle, unsigned int *index) { return give_number(handle, index, 0); }
API int nvmlDeviceGetMinorNumber(void *handle, unsigned int *minor) { return give_number(handle, minor, 0); }
API int nvmlDeviceGetPersistenceMode(void *handle, unsigned int *mode) { return give_number(handle, mode, 1); }
API int nvmlDeviceGetDisplayMode(void *handle, unsigned int *mode) { return give_number(handle, mode, 0); }
API int nvmlDeviceGetDisplayActive(void *handle, unsigned int *active) { return give_number(handle, active, 0); }
API int nvmlDeviceGetComputeMode(void *handle, unsigned int *mode) { return give_number(handle, mode, 0); }
API int nvmlDeviceGetPerformanceState(void *handle, unsigned int *state) { return give_number(handle, state, 0); }
API int nvmlDeviceGetPowerManagementLimit(void *handle, unsigned int *mw) { return give_number(handle, mw, 300000); }
API int nvmlDeviceGetEnforcedPowerLimit(void *handle, unsigned int *mw) { return give_number(handle, mw, 300000); }
API int nvmlDeviceGetArchitecture(void *handle, unsigned int *kind) { return give_number(handle, kind, 10); }
API int nvmlDeviceGetBrand(void *handle, unsigned int *brand) { return give_number(handle, brand, 5); }

API int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor)
{
    CARD(handle);
    NEED(major);
    NEED(minor);
    *major = 12;
    *minor = 0;
    return SUCCESS;
}

API int nvmlDeviceGetPciInfo_v3(void *handle, pci_info *pci)
{
    CARD(handle);
    NEED(pci);
    memset(pci, 0, sizeof *pci);
    strcpy(pci->bus_id_legacy, "0000:01:00.0");
    strcpy(pci->bus_id, BUS_ID);
    pci->bus = 1;
    pci->pci_device_id = 0x2C0510DE;
    pci->pci_subsystem_id = 0x205710DE;
    return SUCCESS;
}

API int nvmlDeviceGetPciInfo_v2(void *handle, pci_info *pci) { return nvmlDeviceGetPciInfo_v3(handle, pci); }
API int nvmlDeviceGetPciInfo(void *handle, pci_info *pci) { return nvmlDeviceGetPciInfo_v3(handle, pci); }

API int nvmlDeviceGetMigMode(void *handle, unsigned int *current, unsigned int *pending)
{
    (void)current;
    (void)pending;
    DEVICE(handle);
    return NOT_SUPPORTED;
}

/* ---- what changes ---- */

/* Version 1 counts the memory that the driver keeps for itself as used; version 2 shows it apart. */
API int nvmlDeviceGetMemoryInfo(void *handle, memory_v1 *memory)
{
    CARD(handle);
    NEED(memory);
    memory->total = card.total_mib * MIB;
    memory->used = (card.used_mib + card.reserved_mib) * MIB;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

API int nvmlDeviceGetMemoryInfo_v2(void *handle, memory_v2 *memory)
{
    CARD(handle);
    NEED(memory);
    if (memory->version != (sizeof *memory | (2U << 24)))
        return ARGUMENT_VERSION_MISMATCH;
    memory->total = card.total_mib * MIB;
    memory->reserved = card.reserved_mib * MIB;
    memory->used = card.used_mib * MIB;
    memory->free = memory->total - memory->reserved - memory->used;
    return SUCCESS;
}

/* Collect the processes of one kind ('C' compute, 'G' graphics; "C+G" is both). The first call usually asks with
 * *count = 0 and gets INSUFFICIENT_SIZE with the number. */
static int processes(void *handle, char kind, unsigned int *count, process_v2 *list)
{
    CARD(handle);
    NEED(count);
    unsigned int found = 0, room = *count;
    for (unsigned int i = 0; i < card.count; i++) {
        holder *one = &card.holders[i];
        if (strchr(one->type, kind) == NULL)
            continue;
        if (list != NULL && found < room) {
            list[found].pid = one->pid;
            list[found].used = one->mib < 0 ? NOT_AVAILABLE : (unsigned long long)one->mib * MIB;
            list[found].gpu_instance = list[found].compute_instance = 0xFFFFFFFFU;
        }
        found++;
    }
    *count = found;
    return found > room || (list == NULL && found > 0) ? INSUFFICIENT_SIZE : SUCCESS;
}

API int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned int *count, process_v2 *list)
{
    return processes(handle, 'C', count, list);
}

API int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned int *count, process_v2 *list)
{
    return processes(handle, 'C', count, list);
}

API int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned int *count, process_v2 *list)
{
    return processes(handle, 'G', count, list);
}

API int nvmlDeviceGetGraphicsRunningProcesses_v2(void *handle, unsigned int *count, process_v2 *list)
{
    return processes(handle, 'G', count, list);
}

/* The first version of the calls has a shorter record. */
static int processes_v1(void *handle, char kind, unsigned int *count, process_v1 *list)
{
    process_v2 wide[MAX_PROCESSES];
    NEED(count);
    unsigned int room = *count < MAX_PROCESSES ? *count : MAX_PROCESSES;
    *count = room;
    int code = processes(handle, kind, count, list == NULL ? NULL : wide);
    for (unsigned int i = 0; list != NULL && i < room && i < *count; i++) {
        list[i].pid = wide[i].pid;
        list[i].used = wide[i].used;
    }
    return code;
}

API int nvmlDeviceGetComputeRunningProcesses(void *handle, unsigned int *count, process_v1 *list)
{
    return processes_v1(handle, 'C', count, list);
}

API int nvmlDeviceGetGraphicsRunningProcesses(void *handle, unsigned int *count, process_v1 *list)
{
    return processes_v1(handle, 'G', count, list);
}

API int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *handle, unsigned int *count, process_v2 *list)
{
    (void)list;
    CARD(handle);
    NEED(count);
    *count = 0;
    return SUCCESS;
}

API int nvmlDeviceGetUtilizationRates(void *handle, utilization *rates)
{
    CARD(handle);
    NEED(rates);
    TELLS("utilization");
    rates->gpu = card.utilization_percent;
    rates->memory = card.utilization_percent / 2;
    return SUCCESS;
}

API int nvmlDeviceGetTemperature(void *handle, unsigned int sensor, unsigned int *celsius)
{
    CARD(handle);
    NEED(celsius);
    TELLS("temperature");
    if (sensor != 0)
        return INVALID_ARGUMENT;
    *celsius = card.temperature_c;
    return SUCCESS;
}

API int nvmlDeviceGetTemperatureV(void *handle, temperature_v1 *reading)
{
    CARD(handle);
    NEED(reading);
    TELLS("temperature");
    reading->temperature = (int)card.temperature_c;
    return SUCCESS;
}

API int nvmlDeviceGetPowerUsage(void *handle, unsigned int *milliwatt)
{
    CARD(handle);
    NEED(milliwatt);
    TELLS("power");
    *milliwatt = card.power_mw;
    return SUCCESS;
}

/* Since the observer began, as a real card counts from the load of its driver. */
API int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *millijoule)
{
    CARD(handle);
    NEED(millijoule);
    TELLS("energy");
    *millijoule = card.energy_mj;
    return SUCCESS;
}

API int nvmlDeviceGetCurrentClocksEventReasons(void *handle, unsigned long long *reasons)
{
    CARD(handle);
    NEED(reasons);
    TELLS("reasons");
    *reasons = card.throttle_reasons;
    return SUCCESS;
}

/* The same by its older name. */
API int nvmlDeviceGetCurrentClocksThrottleReasons(void *handle, unsigned long long *reasons)
{
    return nvmlDeviceGetCurrentClocksEventReasons(handle, reasons);
}

API int nvmlDeviceGetSupportedClocksEventReasons(void *handle, unsigned long long *reasons)
{
    CARD(handle);
    NEED(reasons);
    TELLS("reasons");
    *reasons = 0x1FF;
    return SUCCESS;
}

API int nvmlDeviceGetSupportedClocksThrottleReasons(void *handle, unsigned long long *reasons)
{
    return nvmlDeviceGetSupportedClocksEventReasons(handle, reasons);
}

API int nvmlDeviceGetFanSpeed(void *handle, unsigned int *percent)
{
    CARD(handle);
    NEED(percent);
    *percent = card.fan_percent;
    return SUCCESS;
}

/* Clock kinds: 0 graphics, 1 streaming multiprocessors, 2 memory, 3 video. */
API int nvmlDeviceGetClockInfo(void *handle, unsigned int kind, unsigned int *mhz)
{
    CARD(handle);
    NEED(mhz);
    if (kind > 3)
        return INVALID_ARGUMENT;
    TELLS("clocks");
    *mhz = kind == 2 ? card.memory_mhz : card.sm_mhz;
    return SUCCESS;
}

API int nvmlDeviceGetMaxClockInfo(void *handle, unsigned int kind, unsigned int *mhz)
{
    CARD(handle);
    NEED(mhz);
    if (kind > 3)
        return INVALID_ARGUMENT;
    *mhz = kind == 2 ? 14001 : 3090;
    return SUCCESS;
}
