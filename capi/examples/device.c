/*
 * A device in C: cc device.c $(pkg-config --cflags --libs ptth) -o device && ./device http://gw.example:9999/lamp
 *
 * It answers GET /status with its state, POST /echo with what it was sent, and GET /count with a
 * body that is made piece by piece. SIGINT and SIGTERM end it when its requests are done.
 */
#include <ptth.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void log_line(ptth_level level, const char *line, void *user) {
    (void)level;
    fprintf(user, "%s\n", line);
}

/* Runs on threads of the library, several at once. */
static void status(ptth_request *request) {
    const char *agent = ptth_request_field(request, "User-Agent");
    char text[200];
    int length = snprintf(text, sizeof text, "on, and you are %.100s\n", agent ? agent : "nobody");
    ptth_respond(request, 200, "text/plain", text, (size_t)length);
}

static void echo(ptth_request *request) {
    char body[4096];
    size_t length = 0;
    ptrdiff_t read = 1;
    while (length < sizeof body && read > 0) {
        read = ptth_request_read(request, body + length, sizeof body - length);
        if (read < 0) return; /* it was cut: nobody waits for a response */
        length += (size_t)read;
    }
    if (length == sizeof body)
        ptth_respond(request, 413, "text/plain", "4,095 bytes at most\n", 20);
    else
        ptth_respond(request, 200, "application/octet-stream", body, length);
}

static ptrdiff_t next_number(void *user, void *buffer, size_t size) {
    int *count = user;
    if (*count == 10) return 0;
    return snprintf(buffer, size, "%d\n", (*count)++); /* a buffer has room for thousands of bytes */
}

static void handler(ptth_request *request, void *user) {
    const char *method = ptth_request_method(request), *target = ptth_request_target(request);
    (void)user;
    if (!strcmp(target, "/status")) status(request);
    else if (!strcmp(target, "/echo") && !strcmp(method, "POST")) echo(request);
    else if (!strcmp(target, "/count"))
        ptth_respond_stream(request, 200, "text/plain", -1, next_number, free, calloc(1, sizeof(int)));
    else ptth_respond(request, 404, "text/plain", "not here\n", 9);
}

int main(int argc, char **argv) {
    sigset_t signals;
    int which;
    ptth_device *device;
    if (argc != 2) return fprintf(stderr, "usage: device URL\n"), 2;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* before the library has threads */

    ptth_log(PTTH_LOG_INFO, log_line, stderr);
    ptth_options *options = ptth_options_new(argv[1]);
    if (ptth_serve(options, handler, NULL, NULL, &device) != PTTH_OK)
        return fprintf(stderr, "device: %s\n", ptth_last_error()), 1;
    ptth_options_free(options);
    sigwait(&signals, &which);
    ptth_device_stop(device, 5000);
    ptth_device_free(device);
    return 0;
}
