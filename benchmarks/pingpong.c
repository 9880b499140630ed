/*
 * What a round trip through processes that park costs on this machine, with nothing in it but the kernel.
 *
 *   pingpong chain|fan|cast STAGES BYTES SECONDS DRIVER_CPU STAGE_CPU
 *
 * One driver and STAGES processes. Each waits by a blocking read() of an eventfd of its own: nobody polls. In a chain
 * the driver wakes stage 0, which wakes stage 1, and so on, until the last wakes the driver. In a fan the driver wakes
 * all stages, and then waits for each. Whoever sends copies BYTES bytes into shared memory before it wakes its reader:
 * the one copy that any channel through shared memory needs. A cast is a fan whose stages answer without a copy. A CPU
 * of -1 leaves placement to the kernel.
 *
 * Prints how long each round trip took, in nanoseconds, one a line.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MAX_STAGES 64
#define MAX_SAMPLES (1 << 20)

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int new_eventfd(void)
{
    int fd = eventfd(0, EFD_CLOEXEC);
    if (fd < 0)
        fail("eventfd");
    return fd;
}

static void *new_memory(size_t bytes, int sharing)
{
    void *memory = mmap(NULL, bytes + 1, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    memset(memory, 1, bytes + 1); /* every page is there before the clock runs */
    return memory;
}

static void wake(int fd)
{
    uint64_t one = 1;
    if (write(fd, &one, sizeof one) != sizeof one)
        fail("write");
}

static void park(int fd)
{
    uint64_t count;
    if (read(fd, &count, sizeof count) != sizeof count)
        fail("read");
}

static void pin(int cpu)
{
    cpu_set_t set;
    if (cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        fail("sched_setaffinity");
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static pid_t start_stage(int wait_on, int then_wake, void *target, const void *source, size_t bytes, int cpu)
{
    pid_t pid = fork();
    if (pid < 0)
        fail("fork");
    if (pid > 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* an eventfd has no end of file that would tell */
    pin(cpu);
    for (;;) {
        park(wait_on);
        memcpy(target, source, bytes);
        wake(then_wake);
    }
}

int main(int argc, char **argv)
{
    if (argc != 7) {
        fprintf(stderr, "usage: pingpong chain|fan|cast STAGES BYTES SECONDS DRIVER_CPU STAGE_CPU\n");
        return 2;
    }
    int cast = !strcmp(argv[1], "cast"), fan = cast || !strcmp(argv[1], "fan"), stages = atoi(argv[2]);
    size_t bytes = strtoull(argv[3], NULL, 10);
    double seconds = atof(argv[4]);
    int driver_cpu = atoi(argv[5]), stage_cpu = atoi(argv[6]);
    if (stages < 1 || stages > MAX_STAGES)
        return 2;

    int sent[MAX_STAGES], done[MAX_STAGES];
    pid_t pids[MAX_STAGES];
    void *input = new_memory(bytes, MAP_PRIVATE), *slots[MAX_STAGES + 1];
    slots[0] = new_memory(bytes, MAP_SHARED);
    for (int i = 0; i < stages; i++) {
        sent[i] = i > 0 && !fan ? done[i - 1] : new_eventfd();
        done[i] = new_eventfd();
        slots[i + 1] = new_memory(bytes, MAP_SHARED);
    }
    for (int i = 0; i < stages; i++)
        pids[i] = start_stage(sent[i], done[i], slots[i + 1], slots[fan ? 0 : i], cast ? 0 : bytes, stage_cpu);
    pin(driver_cpu);

    int64_t *samples = new_memory(MAX_SAMPLES * sizeof *samples, MAP_PRIVATE);
    int64_t span = (int64_t)(seconds * 1e9), began = now();
    int64_t warm = began + span / 5, until = warm + span;
    int count = 0;
    while ((began < until || count == 0) && count < MAX_SAMPLES) { /* one at least, however long it takes */
        memcpy(slots[0], input, bytes);
        for (int i = 0; i < (fan ? stages : 1); i++)
            wake(sent[i]);
        for (int i = fan ? 0 : stages - 1; i < stages; i++)
            park(done[i]);
        int64_t ended = now();
        if (began >= warm)
            samples[count++] = ended - began;
        began = ended;
    }

    for (int i = 0; i < stages; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    for (int i = 0; i < count; i++)
        printf("%lld\n", (long long)samples[i]);
    return 0;
}
