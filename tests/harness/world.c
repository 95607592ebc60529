/* What a router under test is told by its libc: what time it is, and where names lead.
 *
 * In: the folder MILLRACE_TEST_WORLD: `clock`, seconds that the wall clock is ahead; `names`, lines `name address`, with `-`
 * for no address. Both are read at every call. Everything else is what it is. No allocation: the caller may be an allocator. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int read_file(const char *name, char *text, size_t size) {
    char path[512];
    const char *world = getenv("MILLRACE_TEST_WORLD");
    text[0] = 0;
    if (!world || snprintf(path, sizeof path, "%s/%s", world, name) >= (int)sizeof path) return 0;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return 0;
    ssize_t length = read(file, text, size - 1);
    close(file);
    text[length > 0 ? length : 0] = 0;
    return length > 0;
}

int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, at);
    char text[64];
    if (result == 0 && id == CLOCK_REALTIME && read_file("clock", text, sizeof text)) at->tv_sec += atoll(text);
    return result;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
    static int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    if (!real)
        real = (int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **))dlsym(RTLD_NEXT, "getaddrinfo");
    char text[4096];
    if (!node || !read_file("names", text, sizeof text)) return real(node, service, hints, found);
    char *rest = NULL;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *space = strchr(line, ' ');
        if (!space) continue;
        *space = 0;
        if (strcmp(line, node) != 0) continue;
        return strcmp(space + 1, "-") == 0 ? EAI_NONAME : real(space + 1, service, hints, found);
    }
    return real(node, service, hints, found);
}
