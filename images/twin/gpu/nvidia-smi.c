/* nvidia-smi of the digital twin: reads everything through libnvidia-ml.so.1, as the real one does.
 *
 *   nvidia-smi | nvidia-smi -L
 *   nvidia-smi --query-gpu=FIELDS --format=csv[,noheader][,nounits]
 *   nvidia-smi --query-compute-apps=FIELDS --format=csv[,noheader][,nounits]
 * Exit codes as the real one's: 0, 2 a wrong argument, 9 no driver, 15 the GPU is lost, 255 other errors.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_PROCESSES 64
#define NOT_AVAILABLE 0xFFFFFFFFFFFFFFFFULL
#define MIB (1024ULL * 1024ULL)

typedef struct { unsigned int version; unsigned long long total, reserved, free, used; } memory_v2;
typedef struct { unsigned int pid; unsigned long long used; unsigned int gpu_instance, compute_instance; } process_v2;
typedef struct { unsigned int gpu, memory; } utilization;

static void *library;
static void *device;
static int headers = 1, units = 1;

static void *symbol(const char *name)
{
    void *found = dlsym(library, name);
    if (found == NULL) {
        fprintf(stderr, "nvidia-smi: %s is missing in libnvidia-ml.so.1\n", name);
        exit(255);
    }
    return found;
}

static void must(int code)
{
    if (code == 0)
        return;
    const char *(*explain)(int) = (const char *(*)(int))symbol("nvmlErrorString");
    if (code == 9) {
        puts("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
             "Make sure that the latest NVIDIA driver is installed and running.\n");
        exit(9);
    }
    printf("Unable to determine the device handle for GPU0: 0000:01:00.0: %s\n", explain(code));
    exit(code < 255 ? code : 255);
}

/* What the table shows is 0 where the driver can't tell; a field of a query says so, see told(). */
static void must_unless_unsupported(int code)
{
    must(code == 3 ? 0 : code);
}

static unsigned int number(const char *call)
{
    unsigned int value = 0;
    must_unless_unsupported(((int (*)(void *, unsigned int *))symbol(call))(device, &value));
    return value;
}

static unsigned int number_of(const char *call, unsigned int argument)
{
    unsigned int value = 0;
    must_unless_unsupported(((int (*)(void *, unsigned int, unsigned int *))symbol(call))(device, argument, &value));
    return value;
}

static void text(const char *call, char *target, unsigned int length)
{
    must(((int (*)(void *, char *, unsigned int))symbol(call))(device, target, length));
}

static void driver(char *target, unsigned int length)
{
    must(((int (*)(char *, unsigned int))symbol("nvmlSystemGetDriverVersion"))(target, length));
}

static memory_v2 memory(void)
{
    memory_v2 now = {.version = sizeof(memory_v2) | (2U << 24)};
    must(((int (*)(void *, memory_v2 *))symbol("nvmlDeviceGetMemoryInfo_v2"))(device, &now));
    return now;
}

static utilization load(void)
{
    utilization now = {0, 0};
    must_unless_unsupported(((int (*)(void *, utilization *))symbol("nvmlDeviceGetUtilizationRates"))(device, &now));
    return now;
}

static unsigned int list_processes(const char *call, process_v2 *list)
{
    unsigned int count = MAX_PROCESSES;
    must(((int (*)(void *, unsigned int *, process_v2 *))symbol(call))(device, &count, list));
    return count;
}

static void process_name(unsigned int pid, char *name, unsigned int length)
{
    int (*ask)(unsigned int, char *, unsigned int) =
        (int (*)(unsigned int, char *, unsigned int))symbol("nvmlSystemGetProcessName");
    if (ask(pid, name, length) != 0)
        snprintf(name, length, "[Not Found]");
}

/* A value that the driver may be unable to tell: "[N/A]" as the real program prints it, or the number by `format`. */
static const char *told(int code, char *value, size_t length, const char *format, double number)
{
    if (code == 3) { /* not supported */
        snprintf(value, length, "[N/A]");
        return "";
    }
    must(code);
    snprintf(value, length, format, number);
    return NULL;
}

static int maybe(const char *call, unsigned int *value)
{
    return ((int (*)(void *, unsigned int *))symbol(call))(device, value);
}

static int maybe_of(const char *call, unsigned int argument, unsigned int *value)
{
    return ((int (*)(void *, unsigned int, unsigned int *))symbol(call))(device, argument, value);
}

/* One field of --query-gpu: its value into `value`, its unit ("" for none); 0 when there is no such field. */
static int gpu_field(const char *name, char *value, size_t length, const char **unit)
{
    unsigned long long mib = 0;
    *unit = "";
    if (strncmp(name, "memory.", 7) == 0) {
        memory_v2 now = memory();
        if (strcmp(name, "memory.total") == 0) mib = now.total;
        else if (strcmp(name, "memory.used") == 0) mib = now.used;
        else if (strcmp(name, "memory.free") == 0) mib = now.free;
        else if (strcmp(name, "memory.reserved") == 0) mib = now.reserved;
        else return 0;
        snprintf(value, length, "%llu", mib / MIB);
        *unit = " MiB";
    } else if (strcmp(name, "name") == 0 || strcmp(name, "gpu_name") == 0) {
        text("nvmlDeviceGetName", value, (unsigned int)length);
    } else if (strcmp(name, "uuid") == 0 || strcmp(name, "gpu_uuid") == 0) {
        text("nvmlDeviceGetUUID", value, (unsigned int)length);
    } else if (strcmp(name, "driver_version") == 0) {
        driver(value, (unsigned int)length);
    } else if (strcmp(name, "index") == 0 || strcmp(name, "count") == 0) {
        snprintf(value, length, "%d", name[0] == 'c');
    } else if (strcmp(name, "pci.bus_id") == 0 || strcmp(name, "gpu_bus_id") == 0) {
        snprintf(value, length, "00000000:01:00.0");
    } else if (strcmp(name, "compute_cap") == 0) {
        snprintf(value, length, "12.0");
    } else if (strcmp(name, "persistence_mode") == 0) {
        snprintf(value, length, "%s", number("nvmlDeviceGetPersistenceMode") ? "Enabled" : "Disabled");
    } else if (strcmp(name, "pstate") == 0) {
        snprintf(value, length, "P%u", number("nvmlDeviceGetPerformanceState"));
    } else if (strcmp(name, "timestamp") == 0) {
        time_t now = time(NULL);
        strftime(value, length, "%Y/%m/%d %H:%M:%S.000", localtime(&now));
    } else if (strcmp(name, "temperature.gpu") == 0) {
        unsigned int celsius = 0;
        int code = maybe_of("nvmlDeviceGetTemperature", 0, &celsius);
        told(code, value, length, "%.0f", celsius);
    } else if (strcmp(name, "clocks_event_reasons.active") == 0 || strcmp(name, "clocks_throttle_reasons.active") == 0) {
        unsigned long long bits = 0;
        int code = ((int (*)(void *, unsigned long long *))symbol("nvmlDeviceGetCurrentClocksEventReasons"))(
            device, &bits);
        if (told(code, value, length, "%.0f", 0) == NULL)
            snprintf(value, length, "0x%016llX", bits);
    } else if (strcmp(name, "fan.speed") == 0) {
        snprintf(value, length, "%u", number("nvmlDeviceGetFanSpeed"));
        *unit = " %";
    } else if (strcmp(name, "utilization.gpu") == 0 || strcmp(name, "utilization.memory") == 0) {
        utilization now = {0, 0};
        int code = ((int (*)(void *, utilization *))symbol("nvmlDeviceGetUtilizationRates"))(device, &now);
        *unit = told(code, value, length, "%.0f", strcmp(name, "utilization.gpu") == 0 ? now.gpu : now.memory);
        *unit = *unit != NULL ? *unit : " %";
    } else if (strcmp(name, "power.draw") == 0 || strcmp(name, "power.limit") == 0) {
        const char *call = name[6] == 'd' ? "nvmlDeviceGetPowerUsage" : "nvmlDeviceGetEnforcedPowerLimit";
        unsigned int mw = 0;
        int code = maybe(call, &mw);
        *unit = told(code, value, length, "%.2f", mw / 1000.0);
        *unit = *unit != NULL ? *unit : " W";
    } else if (strncmp(name, "clocks.", 7) == 0) {
        int max = strncmp(name, "clocks.max.", 11) == 0;
        const char *kind = name + (max ? 11 : 7);
        if (strncmp(kind, "current.", 8) == 0)
            kind += 8;
        unsigned int which = strncmp(kind, "mem", 3) == 0 ? 2 : strcmp(kind, "sm") == 0 ? 1 : 0;
        unsigned int mhz = 0;
        int code = maybe_of(max ? "nvmlDeviceGetMaxClockInfo" : "nvmlDeviceGetClockInfo", which, &mhz);
        *unit = told(code, value, length, "%.0f", mhz);
        *unit = *unit != NULL ? *unit : " MHz";
    } else {
        return 0;
    }
    return 1;
}

static void header_name(const char *name, const char *unit)
{
    const char *shown = strcmp(unit, " MiB") == 0 ? " [MiB]" : strcmp(unit, " W") == 0 ? " [W]"
        : strcmp(unit, " MHz") == 0 ? " [MHz]" : strcmp(unit, " %") == 0 ? " [%]" : "";
    printf("%s%s", name, shown);
}

static int split(char *fields, char **names, int most)
{
    int count = 0;
    for (char *name = strtok(fields, ", "); name != NULL && count < most; name = strtok(NULL, ", "))
        names[count++] = name;
    return count;
}

static int query_gpu(char *fields)
{
    char *names[32], values[32][256];
    const char *unit[32];
    int count = split(fields, names, 32);
    for (int i = 0; i < count; i++)
        if (!gpu_field(names[i], values[i], sizeof values[i], &unit[i])) {
            printf("Field \"%s\" is not a valid field to query.\n\n", names[i]);
            return 2;
        }
    for (int i = 0; headers && i < count; i++) {
        printf("%s", i ? ", " : "");
        header_name(names[i], unit[i]);
    }
    if (headers)
        putchar('\n');
    for (int i = 0; i < count; i++)
        printf("%s%s%s", i ? ", " : "", values[i], units ? unit[i] : "");
    putchar('\n');
    return 0;
}

static int query_apps(char *fields)
{
    process_v2 list[MAX_PROCESSES];
    char *names[8], name[256], uuid[96];
    int count = split(fields, names, 8);
    for (int i = 0; i < count; i++) {
        if (strcmp(names[i], "pid") && strcmp(names[i], "process_name") && strcmp(names[i], "name")
            && strcmp(names[i], "used_memory") && strcmp(names[i], "used_gpu_memory") && strcmp(names[i], "gpu_uuid")) {
            printf("Field \"%s\" is not a valid field to query.\n\n", names[i]);
            return 2;
        }
        if (headers)
            printf("%s%s%s", i ? ", " : "", names[i], strncmp(names[i], "used", 4) ? "" : " [MiB]");
    }
    if (headers)
        putchar('\n');
    unsigned int running = list_processes("nvmlDeviceGetComputeRunningProcesses_v3", list);
    text("nvmlDeviceGetUUID", uuid, sizeof uuid);
    for (unsigned int p = 0; p < running; p++) {
        process_name(list[p].pid, name, sizeof name);
        for (int i = 0; i < count; i++) {
            printf("%s", i ? ", " : "");
            if (strcmp(names[i], "pid") == 0) printf("%u", list[p].pid);
            else if (strcmp(names[i], "gpu_uuid") == 0) printf("%s", uuid);
            else if (strstr(names[i], "name") != NULL) printf("%s", name);
            else if (list[p].used == NOT_AVAILABLE) printf("[N/A]");
            else printf("%llu%s", list[p].used / MIB, units ? " MiB" : "");
        }
        putchar('\n');
    }
    return 0;
}

static void print_processes(const char *call, char kind)
{
    process_v2 list[MAX_PROCESSES];
    char name[256], used[32];
    unsigned int running = list_processes(call, list);
    for (unsigned int p = 0; p < running; p++) {
        process_name(list[p].pid, name, sizeof name);
        if (list[p].used == NOT_AVAILABLE)
            snprintf(used, sizeof used, "N/A");
        else
            snprintf(used, sizeof used, "%lluMiB", list[p].used / MIB);
        printf("|    0   N/A  N/A %15u      %c   %-36.36s %9s |\n", list[p].pid, kind, name, used);
    }
}

static int table(void)
{
    char name[96], version[96], stamp[64], usage[64], power[64];
    time_t now = time(NULL);
    const char *line = "+-----------------------------------------------------------------------------------------+";
    memory_v2 card = memory();
    text("nvmlDeviceGetName", name, sizeof name);
    driver(version, sizeof version);
    strftime(stamp, sizeof stamp, "%a %b %e %H:%M:%S %Y", localtime(&now));
    printf("%s\n%s\n", stamp, line);
    printf("| NVIDIA-SMI %-22s Driver Version: %-14s CUDA Version: %-8s |\n", version, version, "12.9");
    puts("|-----------------------------------------+------------------------+----------------------+");
    puts("| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |");
    puts("| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |");
    puts("|=========================================+========================+======================|");
    printf("|   0  %-27.27s    On  |   00000000:01:00.0 Off |                  N/A |\n", name);
    snprintf(usage, sizeof usage, "%lluMiB / %lluMiB", card.used / MIB, card.total / MIB);
    snprintf(power, sizeof power, "%uW / %uW", number("nvmlDeviceGetPowerUsage") / 1000,
             number("nvmlDeviceGetEnforcedPowerLimit") / 1000);
    printf("| %2u%%   %2uC    P%u %23s | %22s | %6u%%      Default |\n%s\n\n", number("nvmlDeviceGetFanSpeed"),
           number_of("nvmlDeviceGetTemperature", 0), number("nvmlDeviceGetPerformanceState"), power, usage, load().gpu,
           line);
    printf("%s\n| Processes:                                                                              |\n", line);
    puts("|  GPU   GI   CI              PID   Type   Process name                        GPU Memory |");
    puts("|=========================================================================================|");
    print_processes("nvmlDeviceGetComputeRunningProcesses_v3", 'C');
    print_processes("nvmlDeviceGetGraphicsRunningProcesses_v3", 'G');
    puts(line);
    return 0;
}

int main(int argc, char **argv)
{
    char *gpu = NULL, *apps = NULL, *only = "0";
    int list = 0;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--query-gpu=", 12) == 0) gpu = argv[i] + 12;
        else if (strncmp(argv[i], "--query-compute-apps=", 21) == 0) apps = argv[i] + 21;
        else if (strncmp(argv[i], "--format=csv", 12) == 0) {
            headers = strstr(argv[i], "noheader") == NULL;
            units = strstr(argv[i], "nounits") == NULL;
        } else if (strcmp(argv[i], "-L") == 0 || strcmp(argv[i], "--list-gpus") == 0) list = 1;
        else if (strncmp(argv[i], "--id=", 5) == 0) only = argv[i] + 5;
        else if (strcmp(argv[i], "-i") == 0 && i + 1 < argc) only = argv[++i];
        else {
            printf("Invalid combination of input arguments. Please run 'nvidia-smi -h' for help.\n\n");
            return 2;
        }
    }
    if (strcmp(only, "0") != 0) { /* there is one card, and it is number 0 */
        puts("No devices were found");
        return 6;
    }
    library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (library == NULL) {
        puts("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.");
        return 12;
    }
    must(((int (*)(void))symbol("nvmlInit_v2"))());
    must(((int (*)(unsigned int, void **))symbol("nvmlDeviceGetHandleByIndex_v2"))(0, &device));
    if (list) {
        char name[96], uuid[96];
        text("nvmlDeviceGetName", name, sizeof name);
        text("nvmlDeviceGetUUID", uuid, sizeof uuid);
        printf("GPU 0: %s (UUID: %s)\n", name, uuid);
        return 0;
    }
    if (gpu != NULL)
        return query_gpu(gpu);
    return apps != NULL ? query_apps(apps) : table();
}
