/*
 * How a device ends while a callback is at work: ./endings LIBRARY URL, which it loads and unloads as a
 * plug-in would; tests/c.rs sends a request again and again.
 */
#include <dlfcn.h>
#include <ptth.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CHECK(condition) \
    do { if (!(condition)) { fprintf(stderr, "line %d: %s\n", __LINE__, #condition); exit(1); } } while (0)

/* The functions that are loaded. */
static __typeof__(ptth_options_new) *options_new;
static __typeof__(ptth_options_free) *options_free;
static __typeof__(ptth_serve) *serve;
static __typeof__(ptth_respond) *respond;
static __typeof__(ptth_device_stop) *stop;
static __typeof__(ptth_device_free) *device_free;

static ptth_device *device;
static atomic_int entered, may_return, released, acted;

/* What ends the device. */
static enum { MAIN, HANDLER_STOPS, HANDLER_FREES } way;

/* What a handler uses to its end: freed by `release`. */
typedef struct { int answers; } shared;

static void wait_for(atomic_int *what) {
    struct timespec pause = {0, 2000000};
    for (int n = 0; !*what && n < 20000; n++) nanosleep(&pause, NULL);
    CHECK(*what);
}

static void handler(ptth_request *request, void *user) {
    shared *all = user;
    int is_first = acted++ == 0;
    if (is_first && way == HANDLER_STOPS) CHECK(stop(device, 0) == PTTH_OK); /* its own connection is cut, and it goes on */
    if (is_first && way == HANDLER_FREES) device_free(device);
    entered = 1;
    wait_for(&may_return);
    all->answers++;
    CHECK(respond(request, 200, NULL, "late", 4) == PTTH_OK); /* it is there until this returns */
}

static void release(void *user) {
    free(user);
    released = 1;
}

static void *load(const char *library) {
    void *loaded = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    CHECK(loaded);
    *(void **)&options_new = dlsym(loaded, "ptth_options_new");
    *(void **)&options_free = dlsym(loaded, "ptth_options_free");
    *(void **)&serve = dlsym(loaded, "ptth_serve");
    *(void **)&respond = dlsym(loaded, "ptth_respond");
    *(void **)&stop = dlsym(loaded, "ptth_device_stop");
    *(void **)&device_free = dlsym(loaded, "ptth_device_free");
    return loaded;
}

/* Ends the device in its own way, and unloads the library, while the handler waits. */
static void run(const char *library, const char *url) {
    void *loaded = load(library);
    entered = may_return = released = acted = 0;
    ptth_options *options = options_new(url);
    CHECK(serve(options, handler, release, calloc(1, sizeof(shared)), &device) == PTTH_OK);
    options_free(options);
    wait_for(&entered);
    if (way != HANDLER_FREES) device_free(device);
    CHECK(!released); /* the handler uses it */
    CHECK(dlclose(loaded) == 0);
    may_return = 1;
    wait_for(&released);
}

static void stop_again(void *user) {
    (void)user;
    CHECK(stop(device, 0) == PTTH_OK);
    released = 1;
}

/* What is released stops the device, too, on the library's thread: it must not wait for itself. */
static void stop_while_it_is_stopped(const char *library) {
    void *loaded = load(library);
    ptth_options *options = options_new("http://127.0.0.1:1/lamp"); /* nothing answers there */
    for (int n = 0; n < 20; n++) {
        released = 0;
        CHECK(serve(options, handler, stop_again, NULL, &device) == PTTH_OK);
        CHECK(stop(device, 0) == PTTH_OK);
        wait_for(&released);
        device_free(device);
    }
    options_free(options);
    CHECK(dlclose(loaded) == 0);
}

int main(int argc, char **argv) {
    CHECK(argc == 3);
    stop_while_it_is_stopped(argv[1]);
    for (way = MAIN; way <= HANDLER_FREES; way++) run(argv[1], argv[2]);
    puts("each handler came to its end");
    return 0;
}
