/* Bare sockets: what the machine can do, and so what everybody else is compared with.
 *
 * Frames are a u32 length in the machine's order and the payload. One function call per message on
 * both sides; small messages are joined into one write, large ones go out by reference with writev;
 * reads are as large as what is there. Protocol of roles and options: docs/benchmarks/README.md.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    HEAD = 4,
    BUFFER = 256 * 1024, /* one read, one write; it stays in the second-level cache */
    JOIN = 64 * 1024,    /* small messages are collected up to this */
    GATHER = 2048,       /* payloads from here on are sent by reference */
    LARGE = 64 * 1024,   /* frames from here on are read exactly, so that no rest is moved */
    /* What waits in the kernel stays in the cache. Left to itself the buffer grows to megabytes,
     * and a relay of 16 KiB messages takes twice the CPU. */
    SEND_BUFFER = 128 * 1024,
    SILENCE_S = 3,
    START_S = 30, /* until the first message */
    FAN_JOIN = 8192,
};

static struct {
    const char *role, *addr;
    long size, messages, warmup, window, links, busy, cpu, unixes;
} opt = {.size = 64, .messages = 1000, .warmup = 100, .window = 1, .links = 100, .cpu = -1};

/* -- small things ------------------------------------------------------------------------------ */

static void die(const char *what) {
    fprintf(stderr, "%s: %s: %s\n", opt.role ? opt.role : "c", what, strerror(errno));
    exit(1);
}

static int must(int result, const char *what) {
    if (result < 0) die(what);
    return result;
}

static void *room(size_t n) {
    void *memory = aligned_alloc(4096, (n + 4095) / 4096 * 4096);
    if (!memory) die("memory");
    memset(memory, 0, n); /* its pages are there before anything is measured */
    return memory;
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static double cpu_seconds(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

static long pss_kib(void) {
    char line[256];
    long kib = 0;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "Pss: %ld", &kib) == 1) break;
    if (file) fclose(file);
    return kib;
}

static uint32_t length_at(const char *frame) {
    uint32_t n;
    memcpy(&n, frame, HEAD);
    return n;
}

/* -- what was measured -------------------------------------------------------------------------- */

static struct {
    long count, total;
    int64_t start, end;
    double cpu_start, cpu_end;
} meter;

static void meter_start(void) {
    meter.cpu_start = meter.cpu_end = cpu_seconds();
    meter.start = meter.end = now_ns();
}

static void meter_end(void) {
    meter.end = now_ns();
    meter.cpu_end = cpu_seconds();
}

static inline void count_one(void) {
    if (++meter.count == opt.warmup) meter_start();
    if (meter.count == meter.total) meter_end();
}

/* The callback of a sink: a call that the compiler cannot see through. */
static void count_message(const char *payload, size_t n) {
    (void)payload, (void)n;
    count_one();
}
static void (*volatile on_message)(const char *, size_t) = count_message;

static int64_t *latencies;
static long n_latencies;

static int ascending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static void print_percentiles(const char *name, int64_t *values, long n) {
    if (n == 0) return;
    qsort(values, n, sizeof *values, ascending);
    printf(", \"%s\": [", name);
    for (int p = 0; p <= 100; p++)
        printf("%s%lld", p ? ", " : "", (long long)values[(n - 1) * p / 100]);
    printf("]");
    if (strcmp(name, "latency_ns") == 0)
        printf(", \"p99_9\": %lld", (long long)values[(long)((n - 1) * 0.999)]);
}

static void begin_result(void) {
    long measured = meter.count > opt.warmup ? meter.count - opt.warmup : 0;
    if (meter.count != meter.total) meter_end(); /* it broke off */
    printf("{\"messages\": %ld, \"seconds\": %.9f, \"cpu\": %.6f, \"lost\": %ld", measured,
           (meter.end - meter.start) * 1e-9, meter.cpu_end - meter.cpu_start,
           opt.messages - measured);
}

static void end_result(void) {
    printf("}\n");
    fflush(stdout);
}

static void say_ready(const char *addr) {
    printf(addr ? "{\"ready\": true, \"addr\": \"%s\"}\n" : "{\"ready\": true}\n", addr);
    fflush(stdout);
}

static void wait_go(void) {
    char line[16];
    say_ready(NULL);
    if (!fgets(line, sizeof line, stdin)) exit(1);
}

/* -- sockets ----------------------------------------------------------------------------------- */

static void set_up(int fd) {
    int one = 1, bytes = SEND_BUFFER;
    struct timeval silence = {SILENCE_S, 0};
    if (!opt.unixes) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof silence);
}

static int listen_at_any(void) {
    int fd = must(socket(opt.unixes ? AF_UNIX : AF_INET, SOCK_STREAM, 0), "socket");
    char text[64];
    if (opt.unixes) {
        struct sockaddr_un name = {.sun_family = AF_UNIX};
        int n = snprintf(name.sun_path + 1, sizeof name.sun_path - 1, "bench-%d", getpid());
        must(bind(fd, (void *)&name, offsetof(struct sockaddr_un, sun_path) + 1 + n), "bind");
        snprintf(text, sizeof text, "bench-%d", getpid());
    } else {
        struct sockaddr_in name = {.sin_family = AF_INET};
        socklen_t n = sizeof name;
        name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        must(bind(fd, (void *)&name, sizeof name), "bind");
        getsockname(fd, (void *)&name, &n);
        snprintf(text, sizeof text, "%d", ntohs(name.sin_port));
    }
    must(listen(fd, 4096), "listen");
    say_ready(text);
    return fd;
}

static int dial(void) {
    int fd = must(socket(opt.unixes ? AF_UNIX : AF_INET, SOCK_STREAM, 0), "socket");
    if (opt.unixes) {
        struct sockaddr_un name = {.sun_family = AF_UNIX};
        size_t n = strlen(opt.addr);
        memcpy(name.sun_path + 1, opt.addr, n);
        must(connect(fd, (void *)&name, offsetof(struct sockaddr_un, sun_path) + 1 + n), "connect");
    } else {
        struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons(atoi(opt.addr))};
        name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        must(connect(fd, (void *)&name, sizeof name), "connect");
    }
    set_up(fd);
    return fd;
}

static int take(int listener) {
    int fd = must(accept(listener, NULL, NULL), "accept");
    set_up(fd);
    return fd;
}

static int take_one(void) {
    int listener = listen_at_any();
    int fd = take(listener);
    close(listener);
    return fd;
}

static void send_all(int fd, const char *data, size_t n) {
    while (n) {
        ssize_t sent = must(send(fd, data, n, MSG_NOSIGNAL), "send");
        data += sent;
        n -= sent;
    }
}

static void send_pieces(int fd, struct iovec *pieces, int n) {
    while (n) {
        ssize_t sent = must(writev(fd, pieces, n), "writev");
        for (; n && (size_t)sent >= pieces->iov_len; pieces++, n--) sent -= pieces->iov_len;
        if (n) {
            pieces->iov_base = (char *)pieces->iov_base + sent;
            pieces->iov_len -= sent;
        }
    }
}

/* Read what is there; 0: the other end closed, or was silent for too long. */
static size_t receive(int fd, char *to, size_t n) {
    for (;;) {
        ssize_t got = recv(fd, to, n, opt.busy ? MSG_DONTWAIT : 0);
        if (got >= 0) return got;
        if (opt.busy && errno == EAGAIN) continue;
        if (errno == EAGAIN || errno == ECONNRESET) return 0;
        if (errno != EINTR) die("recv");
    }
}

/* -- frames out -------------------------------------------------------------------------------- */

struct writer {
    int fd;
    char *buffer;
    size_t used, limit;
    struct iovec pieces[128];
    int n_pieces;
    uint32_t head;
};

static void writer_open(struct writer *w, int fd, size_t limit) {
    *w = (struct writer){.fd = fd, .limit = limit, .buffer = room(limit + GATHER + HEAD)};
}

static void flush(struct writer *w) {
    if (w->n_pieces) send_pieces(w->fd, w->pieces, w->n_pieces);
    else if (w->used) send_all(w->fd, w->buffer, w->used);
    w->n_pieces = 0;
    w->used = 0;
}

static __attribute__((noinline)) void write_message(struct writer *w, char *payload, uint32_t n) {
    if (n >= GATHER) { /* all messages of a run have one size: so do their heads */
        w->head = n;
        w->pieces[w->n_pieces++] = (struct iovec){&w->head, HEAD};
        w->pieces[w->n_pieces++] = (struct iovec){payload, n};
        w->used += HEAD + n;
        if (w->used >= BUFFER || w->n_pieces == 128) flush(w);
        return;
    }
    memcpy(w->buffer + w->used, &n, HEAD);
    memcpy(w->buffer + w->used + HEAD, payload, n);
    w->used += HEAD + n;
    if (w->used >= w->limit) flush(w);
}

/* -- frames in --------------------------------------------------------------------------------- */

struct reader {
    int fd;
    char *buffer;
    size_t start, end, size;
};

static void reader_open(struct reader *r, int fd, size_t size) {
    *r = (struct reader){.fd = fd, .size = size, .buffer = room(size)};
}

/* Move the unfinished frame to the front and read more behind it. A large frame is read to its end
 * and the next one's head: then nothing but that has to be moved. */
static size_t fill(struct reader *r) {
    size_t rest = r->end - r->start, want = r->size, got;
    if (rest && r->start) memmove(r->buffer, r->buffer + r->start, rest);
    r->start = 0;
    r->end = rest;
    if (rest >= HEAD && length_at(r->buffer) >= LARGE)
        want = HEAD + length_at(r->buffer) + HEAD;
    got = receive(r->fd, r->buffer + rest, want - rest);
    r->end += got;
    return got;
}

/* Return the next whole frame in the buffer, or NULL. */
static inline char *next_frame(struct reader *r) {
    char *frame = r->buffer + r->start;
    size_t rest = r->end - r->start, n;
    if (rest < HEAD) return NULL;
    n = HEAD + (size_t)length_at(frame);
    if (n > r->size) {
        errno = EMSGSIZE;
        die("frame");
    }
    if (rest < n) return NULL;
    r->start += n;
    return frame;
}

static size_t read_room(void) {
    size_t frame = HEAD + opt.size + HEAD;
    return frame > BUFFER ? frame : BUFFER;
}

/* -- roles: one way ---------------------------------------------------------------------------- */

static void sink(void) {
    struct reader in;
    char *frame;
    reader_open(&in, take_one(), read_room());
    while (meter.count < meter.total && fill(&in))
        while ((frame = next_frame(&in))) on_message(frame + HEAD, length_at(frame));
    begin_result();
    end_result();
}

static void source(void) {
    struct writer out;
    char *payload = room(opt.size);
    writer_open(&out, dial(), JOIN);
    wait_go();
    for (long i = 0; i < meter.total; i++) {
        write_message(&out, payload, opt.size);
        if (i == meter.total - 1) flush(&out);
        count_one();
    }
    begin_result();
    end_result();
}

/* Whole frames go on from where they were read: a relay without routing has nothing to copy. */
static void relay(void) {
    struct reader in;
    int next = dial();
    reader_open(&in, take_one(), read_room());
    while (meter.count < meter.total && fill(&in)) {
        char *run = in.buffer;
        while (next_frame(&in)) meter.count++;
        if (in.start) send_all(next, run, in.start);
        if (!meter.start && meter.count >= opt.warmup) meter_start();
        if (meter.count >= meter.total) meter_end();
    }
    begin_result();
    end_result();
}

/* -- roles: there and back --------------------------------------------------------------------- */

static void echo_back(void) {
    struct reader in;
    char *frame;
    reader_open(&in, take_one(), read_room());
    while (meter.count < meter.total && fill(&in))
        while ((frame = next_frame(&in))) {
            send_all(in.fd, frame, HEAD + length_at(frame));
            count_one();
        }
    begin_result();
    end_result();
}

static int64_t ping(struct reader *in, char *frame, size_t n) {
    int64_t before = now_ns();
    send_all(in->fd, frame, n);
    while (!next_frame(in))
        if (!fill(in)) die("no answer");
    return now_ns() - before;
}

static char *new_frame(void) {
    char *frame = room(HEAD + opt.size);
    uint32_t n = opt.size;
    memcpy(frame, &n, HEAD);
    return frame;
}

static void pinger(void) {
    struct reader in;
    char *frame = new_frame();
    reader_open(&in, dial(), read_room());
    latencies = room(sizeof *latencies * opt.messages);
    wait_go();
    while (meter.count < meter.total) {
        int64_t took = ping(&in, frame, HEAD + opt.size);
        if (meter.count >= opt.warmup) latencies[n_latencies++] = took;
        count_one();
    }
    begin_result();
    print_percentiles("latency_ns", latencies, n_latencies);
    end_result();
}

/* A call is a frame that begins with a u64 id; its answer begins with the same one. */
enum { ID = 8 };

static void callee(void) {
    struct reader in;
    struct writer out;
    char *frame;
    reader_open(&in, take_one(), BUFFER + HEAD + ID + opt.size);
    writer_open(&out, in.fd, JOIN);
    while (meter.count < meter.total && fill(&in)) {
        while ((frame = next_frame(&in))) {
            write_message(&out, frame + HEAD, length_at(frame));
            if (meter.count == meter.total - 1) flush(&out);
            count_one();
        }
        flush(&out);
    }
    begin_result();
    end_result();
}

struct pending {
    uint64_t id;
    int64_t since;
};

static void call(struct writer *out, struct pending *table, char *request, uint64_t id) {
    memcpy(request, &id, ID);
    table[id % opt.window] = (struct pending){id, now_ns()};
    write_message(out, request, ID + opt.size);
}

static void on_answer(struct pending *table, const char *answer) {
    uint64_t id;
    memcpy(&id, answer, ID);
    struct pending *found = &table[id % opt.window];
    if (found->id != id) {
        errno = EPROTO;
        die("answer to no call");
    }
    if (meter.count >= opt.warmup) latencies[n_latencies++] = now_ns() - found->since;
    count_one();
}

/* As many calls are in flight as the window takes. A slot that a late answer still holds makes the
 * caller wait for it: answers come in order here. */
static void caller(void) {
    struct reader in;
    struct writer out;
    char *request = room(ID + opt.size), *frame;
    struct pending *table = room(sizeof *table * opt.window);
    long sent = 0;
    reader_open(&in, dial(), BUFFER + HEAD + ID + opt.size);
    writer_open(&out, in.fd, JOIN);
    latencies = room(sizeof *latencies * opt.messages);
    wait_go();
    do {
        for (; sent < meter.total && sent - meter.count < opt.window; sent++)
            call(&out, table, request, sent + 1);
        flush(&out);
        if (!fill(&in)) break;
        while ((frame = next_frame(&in))) on_answer(table, frame + HEAD);
    } while (meter.count < meter.total);
    begin_result();
    print_percentiles("latency_ns", latencies, n_latencies);
    end_result();
}

/* -- roles: many links -------------------------------------------------------------------------- */

static int watch(int poller, int fd, void *what) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = what};
    return must(epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event), "epoll_ctl");
}

static void fan_sink(void) {
    struct reader *links = calloc(opt.links, sizeof *links);
    struct epoll_event ready[256];
    int listener = listen_at_any(), poller = must(epoll_create1(0), "epoll"), n = 0;
    char *frame;
    for (long i = 0; i < opt.links; i++) {
        reader_open(&links[i], take(listener), 4 * FAN_JOIN + HEAD + opt.size);
        watch(poller, links[i].fd, &links[i]);
    }
    while (meter.count < meter.total && (n = epoll_wait(poller, ready, 256, SILENCE_S * 1000)) > 0)
        for (int i = 0; i < n; i++) {
            struct reader *in = ready[i].data.ptr;
            if (!fill(in)) epoll_ctl(poller, EPOLL_CTL_DEL, in->fd, NULL);
            while ((frame = next_frame(in))) on_message(frame + HEAD, length_at(frame));
        }
    begin_result();
    end_result();
}

static void fan_source(void) {
    struct writer *links = calloc(opt.links, sizeof *links);
    char *payload = room(opt.size);
    long sent = 0;
    for (long i = 0; i < opt.links; i++) writer_open(&links[i], dial(), FAN_JOIN);
    wait_go();
    for (; sent < meter.total; sent += opt.links)
        for (long i = 0; i < opt.links; i++) {
            write_message(&links[i], payload, opt.size);
            if (sent + i + opt.links >= meter.total) flush(&links[i]);
            count_one();
        }
    begin_result();
    end_result();
}

static void idle_server(void) {
    struct epoll_event ready[256];
    struct reader in;
    int *all = calloc(opt.links, sizeof *all), listener, poller, n;
    long taken = 0, before = 0, after = 0;
    char *frame;
    reader_open(&in, -1, BUFFER);
    poller = must(epoll_create1(0), "epoll");
    listener = listen_at_any();
    watch(poller, listener, &listener);
    while (meter.count < meter.total && (n = epoll_wait(poller, ready, 256, START_S * 1000)) > 0)
        for (int i = 0; i < n; i++) {
            if (ready[i].data.ptr == &listener) {
                int fd = all[taken] = take(listener);
                if (!taken) in.fd = fd;
                watch(poller, fd, &all[taken++]);
                if (taken == 2) before = pss_kib();
                if (taken < opt.links) continue;
                after = pss_kib();
                send_all(in.fd, "\0\0\0\0", HEAD); /* all are here: an empty frame */
                epoll_ctl(poller, EPOLL_CTL_DEL, listener, NULL);
            } else if (ready[i].data.ptr != &all[0] || !fill(&in)) {
                meter.total = meter.count; /* nobody else speaks: somebody has closed */
            }
            while ((frame = next_frame(&in))) {
                send_all(in.fd, frame, HEAD + length_at(frame));
                if (taken == opt.links) count_one();
            }
        }
    begin_result();
    printf(", \"links\": %ld, \"pss_before_kib\": %ld, \"pss_after_kib\": %ld", taken, before, after);
    end_result();
}

static void idle_client(void) {
    struct reader in;
    char *frame = new_frame();
    int64_t *alone = room(sizeof *alone * opt.messages), start;
    reader_open(&in, dial(), BUFFER);
    latencies = room(sizeof *latencies * opt.messages);
    wait_go();
    for (long i = -opt.warmup; i < opt.messages; i++)
        alone[i < 0 ? 0 : i] = ping(&in, frame, HEAD + opt.size);
    start = now_ns();
    for (long i = 1; i < opt.links; i++) dial();
    while (!next_frame(&in))
        if (!fill(&in)) die("not all were accepted");
    double took = (now_ns() - start) * 1e-9;
    while (meter.count < meter.total) {
        int64_t ns = ping(&in, frame, HEAD + opt.size);
        if (meter.count >= opt.warmup) latencies[n_latencies++] = ns;
        count_one();
    }
    begin_result();
    printf(", \"connect_seconds\": %.6f", took);
    print_percentiles("latency_ns", latencies, n_latencies);
    print_percentiles("alone", alone, opt.messages);
    end_result();
}

static void churn_server(void) {
    int listener = listen_at_any();
    struct timeval silence = {10, 0};
    char byte;
    setsockopt(listener, SOL_SOCKET, SO_RCVTIMEO, &silence, sizeof silence);
    while (meter.count < meter.total) {
        int fd = take(listener);
        if (!receive(fd, &byte, 1)) break;
        send_all(fd, &byte, 1);
        receive(fd, &byte, 1); /* its end */
        close(fd);
        count_one();
    }
    begin_result();
    end_result();
}

static void churn_client(void) {
    char byte = 'x';
    wait_go();
    while (meter.count < meter.total) {
        int fd = dial();
        send_all(fd, &byte, 1);
        if (!receive(fd, &byte, 1)) die("no answer");
        close(fd);
        count_one();
    }
    begin_result();
    end_result();
}

/* -- start -------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(void);
} ROLES[] = {
    {"sink", sink},         {"source", source},         {"relay", relay},
    {"echo", echo_back},    {"pinger", pinger},         {"callee", callee},
    {"caller", caller},     {"fan_sink", fan_sink},     {"fan_source", fan_source},
    {"idle_server", idle_server},                       {"idle_client", idle_client},
    {"churn_server", churn_server},                     {"churn_client", churn_client},
};

static const struct {
    const char *name;
    long *value;
} OPTIONS[] = {
    {"size", &opt.size},   {"messages", &opt.messages}, {"warmup", &opt.warmup},
    {"links", &opt.links}, {"window", &opt.window},     {"busy", &opt.busy},
    {"cpu", &opt.cpu},     {"unix", &opt.unixes},
};

static void read_option(const char *text) {
    const char *value = strchr(text, '=');
    if (!value) return;
    if (strncmp(text, "addr=", 5) == 0) opt.addr = value + 1;
    for (size_t i = 0; i < sizeof OPTIONS / sizeof *OPTIONS; i++)
        if (strlen(OPTIONS[i].name) == (size_t)(value - text) &&
            strncmp(text, OPTIONS[i].name, value - text) == 0)
            *OPTIONS[i].value = atol(value + 1);
}

static void raise_file_limit(void) {
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

int main(int argc, char **argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (int i = 2; i < argc; i++) read_option(argv[i]);
    if (opt.warmup < 1) opt.warmup = 1;
    if (opt.cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(opt.cpu, &set);
        sched_setaffinity(0, sizeof set, &set);
    }
    raise_file_limit();
    meter.total = opt.warmup + opt.messages;
    for (size_t i = 0; argc > 1 && i < sizeof ROLES / sizeof *ROLES; i++)
        if (strcmp(argv[1], ROLES[i].name) == 0) {
            opt.role = argv[1];
            ROLES[i].run();
            return 0;
        }
    fprintf(stderr, "no role\n");
    return 2;
}
