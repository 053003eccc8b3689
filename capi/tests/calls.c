/* Each function once, in the ways that it may be called wrong, too: ./calls URL; tests/c.rs plays the gateway. */
#include <ptth.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) \
    do { if (!(condition)) { \
        fprintf(stderr, "line %d: %s: %s\n", __LINE__, #condition, ptth_last_error()); \
        exit(1); \
    } } while (0)

static int released;

static void release(void *user) { (void)user; released++; }

static atomic_int ended; /* devices, those included that did not start */

static void over(void *user) { (void)user; ended++; }

static ptrdiff_t fails(void *user, void *buffer, size_t size) {
    (void)user; (void)buffer; (void)size;
    return -1;
}

static ptrdiff_t too_much(void *user, void *buffer, size_t size) {
    (void)user; (void)buffer;
    return (ptrdiff_t)size + 1;
}

static ptrdiff_t endless(void *user, void *buffer, size_t size) {
    (void)user;
    memset(buffer, 'x', size);
    return (ptrdiff_t)size;
}

static void silent(ptth_request *request, void *user) { (void)request; (void)user; }

static void log_line(ptth_level level, const char *line, void *user) { (void)level; (void)line; ++*(int *)user; }

static int lines;

/* The last error has this, and neither a method of Rust's nor an option of the command. */
static int says(const char *part) {
    const char *text = ptth_last_error();
    return strstr(text, part) && !strstr(text, "::") && !strstr(text, "--") && !strstr(text, "limits:");
}

/* What the library says of a setting is said with the name that it has in C. */
static void wrong_words(const char *url) {
    const char *urls[][2] = {
        {"http://gw.example/a/b", "ptth_options_whole_target"},
        {"http://me:hunter2@gw.example/lamp", "ptth_options_token"},
    };
    ptth_device *device;
    for (int n = 0; n < 2; n++) {
        ptth_options *options = ptth_options_new(urls[n][0]);
        CHECK(ptth_serve(options, silent, over, NULL, &device) == PTTH_USAGE && says(urls[n][1]));
        ptth_options_free(options);
    }
    for (int n = 0; n < 10; n++) {
        ptth_options *options = ptth_options_new(url);
        const char *word = NULL;
        switch (n) {
        case 0: ptth_options_links(options, 0, 0); word = "ptth_options_links"; break;
        case 1: ptth_options_polls(options, 1, SIZE_MAX); word = "ptth_options_polls"; break;
        case 2: ptth_options_handlers(options, 0); word = "ptth_options_handlers"; break;
        case 3: ptth_options_backoff(options, 2, 1); word = "ptth_options_backoff"; break;
        case 4: ptth_options_backoff(options, 0, 0); word = "ptth_options_backoff"; break;
        case 5: ptth_options_token(options, "a\n"); word = "ptth_options_token"; break;
        case 6: ptth_options_max_retries(options, 0); word = "ptth_options_max_retries"; break;
        case 7: ptth_options_proxy(options, "http://me:hunter2@proxy"); word = "ptth_options_proxy_credentials"; break;
        case 8: ptth_options_redirect_host(options, "http://x/"); word = "http://x/"; break;
        case 9: ptth_options_proxy_credentials(options, "me", "hunter2"); word = "proxy"; break;
        }
        CHECK(ptth_serve(options, silent, over, NULL, &device) == PTTH_USAGE && device == NULL && says(word));
        CHECK(!strstr(ptth_last_error(), "hunter2"));
        ptth_options_free(options);
    }
}

static void wrong_options(const char *url) {
    ptth_device *device = (ptth_device *)&lines;
    CHECK(ptth_options_new(NULL) == NULL && strstr(ptth_last_error(), "NULL"));
    CHECK(ptth_options_new("http://\xff/") == NULL && strstr(ptth_last_error(), "UTF-8"));
    ptth_options *options = ptth_options_new("ftp://gw.example/lamp");
    CHECK(options);
    CHECK(ptth_serve(options, silent, over, NULL, &device) == PTTH_USAGE && device == NULL);
    CHECK(says("http://"));
    ptth_options_free(options);
    ptth_options_free(NULL);
    wrong_words(url);

    options = ptth_options_new(url);
    CHECK(ptth_options_token(NULL, "t") == PTTH_USAGE && ptth_options_token(options, NULL) == PTTH_USAGE);
    CHECK(ptth_options_fallback(options, 3) == PTTH_USAGE && ptth_options_fallback(options, -1) == PTTH_USAGE);
    CHECK(ptth_options_ca(options, "no certificate") == PTTH_USAGE);
    CHECK(ptth_options_pin(options, "sha256//no") == PTTH_USAGE);
    CHECK(ptth_options_identity(options, "none", "none") == PTTH_USAGE);
    CHECK(ptth_serve(options, NULL, over, NULL, &device) == PTTH_USAGE && ptth_serve(options, silent, over, NULL, NULL) == PTTH_USAGE);
    CHECK(ptth_serve(NULL, silent, over, NULL, &device) == PTTH_USAGE);
    CHECK(ptth_forward(options, "gopher://localhost", &device) == PTTH_USAGE);
    CHECK(ptth_options_links(options, 4, 2) == PTTH_OK); /* checked with all the rest */
    CHECK(ptth_serve(options, silent, over, NULL, &device) == PTTH_USAGE);
    ptth_options_free(options);
}

static void wrong_objects(void) {
    ptth_state state;
    ptth_request *request;
    const char *text;
    CHECK(ptth_device_state(NULL, &state) == PTTH_USAGE && ptth_device_stop(NULL, 0) == PTTH_USAGE);
    CHECK(ptth_device_wait(NULL) == PTTH_USAGE && ptth_device_retry_now(NULL) == PTTH_USAGE);
    CHECK(ptth_receive(NULL, 0, &request) == PTTH_USAGE && request == NULL);
    CHECK(ptth_request_method(NULL) == NULL && ptth_request_target(NULL) == NULL);
    CHECK(ptth_request_field(NULL, "a") == NULL && ptth_request_fields(NULL) == 0);
    CHECK(ptth_request_field_at(NULL, 0, &text, &text) == PTTH_USAGE);
    CHECK(ptth_request_length(NULL) == -1 && ptth_request_read(NULL, &state, 1) == -1);
    CHECK(ptth_respond(NULL, 200, NULL, NULL, 0) == PTTH_USAGE && ptth_response_field(NULL, "a", "b") == PTTH_USAGE);
    CHECK(ptth_respond_stream(NULL, 200, NULL, -1, fails, release, NULL) == PTTH_USAGE && released == 1);
    CHECK(ptth_request_done(NULL) == PTTH_USAGE);
    ptth_device_free(NULL);
}

/* Nothing answers there. */
static void nobody(void) {
    ptth_options *options = ptth_options_new("http://127.0.0.1:1/lamp");
    ptth_device *device;
    ptth_request *request;
    CHECK(ptth_open(options, &device) == PTTH_OK);
    CHECK(ptth_receive(device, 0, &request) == PTTH_TIMEOUT && request == NULL);
    CHECK(ptth_receive(device, 20, &request) == PTTH_TIMEOUT && request == NULL);
    ptth_options_free(options);
    ptth_device_free(device); /* stops it */
}

static ptth_request *next(ptth_device *device, const char *target) {
    ptth_request *request;
    CHECK(ptth_receive(device, 20000, &request) == PTTH_OK);
    CHECK(!strcmp(ptth_request_target(request), target));
    return request;
}

int main(int argc, char **argv) {
    ptth_device *device;
    ptth_request *request;
    ptth_state state;
    const char *name, *value;
    char body[16] = "";
    static char large[1 << 20];
    CHECK(argc == 2 && strlen(ptth_version()) >= 5 && !*ptth_last_error());
    CHECK(ptth_log(9, log_line, &lines) == PTTH_USAGE && ptth_log(PTTH_LOG_INFO, NULL, NULL) == PTTH_USAGE);
    CHECK(ptth_log_to_stderr(9) == PTTH_USAGE);
    CHECK(ptth_log(PTTH_LOG_INFO, log_line, &lines) == PTTH_OK);
    CHECK(ptth_log_to_stderr(PTTH_LOG_INFO) == PTTH_USAGE);
    CHECK(ptth_log(PTTH_LOG_INFO, log_line, &lines) == PTTH_USAGE);
    wrong_options(argv[1]);
    CHECK(ended == 17); /* each is told so once */
    wrong_objects();
    nobody();

    ptth_options *options = ptth_options_new(argv[1]);
    CHECK(ptth_options_failover(options, false) == PTTH_OK && ptth_options_stop_when_refused(options, false) == PTTH_OK);
    CHECK(ptth_options_token(options, "secret") == PTTH_OK && ptth_options_field(options, "X-Model", "7") == PTTH_OK);
    CHECK(ptth_options_links(options, 1, 4) == PTTH_OK && ptth_options_polls(options, 2, 4) == PTTH_OK);
    CHECK(ptth_options_backoff(options, 10, 100) == PTTH_OK && ptth_options_handlers(options, 2) == PTTH_OK);
    CHECK(ptth_options_fallback(options, PTTH_FALLBACK_NEVER) == PTTH_OK);
    CHECK(ptth_open(options, &device) == PTTH_OK);
    CHECK(ptth_device_retry_now(device) == PTTH_OK);

    request = next(device, "/fields?a=1");
    CHECK(!strcmp(ptth_request_method(request), "POST") && !strcmp(ptth_request_field(request, "X-One"), "1"));
    CHECK(ptth_request_field(request, "x-none") == NULL && ptth_request_fields(request) >= 2);
    CHECK(ptth_request_field_at(request, 0, &name, &value) == PTTH_OK && *name);
    CHECK(ptth_request_field_at(request, 0, NULL, NULL) == PTTH_OK);
    CHECK(ptth_request_field_at(request, ptth_request_fields(request), &name, &value) == PTTH_USAGE);
    CHECK(ptth_request_length(request) == 5 && ptth_request_read(request, body, sizeof body) == 5);
    CHECK(!strcmp(body, "hello") && ptth_request_read(request, body, sizeof body) == 0);
    CHECK(ptth_device_state(device, &state) == PTTH_OK && state.transport == PTTH_UPGRADE);
    CHECK(state.links >= 1 && state.busy == 1 && state.requests == 1 && lines > 0);
    CHECK(ptth_respond(request, 101, NULL, NULL, 0) == PTTH_USAGE && ptth_respond(request, 20, NULL, NULL, 0) == PTTH_USAGE);
    CHECK(ptth_respond(request, 200, "a\nb", NULL, 0) == PTTH_USAGE && ptth_respond(request, 200, NULL, NULL, 1) == PTTH_USAGE);
    CHECK(ptth_respond_file(request, 200, NULL, "/nowhere") == PTTH_SYSTEM);
    CHECK(ptth_response_field(request, "a b", "c") == PTTH_USAGE && ptth_response_field(request, "a", "\r\nb: c") == PTTH_USAGE);
    CHECK(ptth_response_field(request, "Content-Length", "4") == PTTH_USAGE && strstr(ptth_last_error(), "content-length"));
    CHECK(ptth_response_field(request, "transfer-encoding", "chunked") == PTTH_USAGE && ptth_response_field(request, "UPGRADE", "a") == PTTH_USAGE);
    CHECK(ptth_response_field(request, "X-Two", "2") == PTTH_OK && ptth_response_field(request, "X-Two", "3") == PTTH_OK);
    CHECK(ptth_respond(request, 201, "text/plain", "made", 4) == PTTH_OK);
    CHECK(ptth_respond_stream(request, 200, NULL, 0, fails, release, NULL) == PTTH_USAGE && released == 2);
    CHECK(ptth_request_done(request) == PTTH_OK);

    /* A large buffer is not touched where nothing was read: this would be slow each time. */
    request = next(device, "/large");
    memset(large, 1, sizeof large);
    CHECK(ptth_request_read(request, large, sizeof large) == 5 && !memcmp(large, "hello", 5) && large[sizeof large - 1] == 1);
    CHECK(ptth_respond(request, 200, NULL, large, SIZE_MAX / 2) == PTTH_FULL && says("ptth_respond_stream"));
    CHECK(ptth_respond(request, 200, NULL, large, SIZE_MAX) == PTTH_USAGE);
    CHECK(ptth_request_done(request) == PTTH_OK);

    request = next(device, "/file");
    CHECK(ptth_respond_file(request, 200, "text/plain", argv[0]) == PTTH_OK && ptth_request_done(request) == PTTH_OK);
    request = next(device, "/fails");
    CHECK(ptth_respond_stream(request, 200, NULL, 9, fails, release, NULL) == PTTH_OK);
    CHECK(ptth_request_done(request) == PTTH_FAILED && released == 3 && strstr(ptth_last_error(), "callback"));
    request = next(device, "/too-much");
    CHECK(ptth_respond_stream(request, 200, NULL, -2, too_much, release, NULL) == PTTH_USAGE && released == 4);
    CHECK(ptth_respond_stream(request, 200, NULL, -1, too_much, release, NULL) == PTTH_OK);
    CHECK(ptth_request_done(request) == PTTH_FAILED && released == 5);
    for (int n = 0; n < 20; n++) { /* the other side goes away: no signal */
        request = next(device, "/endless");
        CHECK(ptth_respond_stream(request, 200, NULL, -1, endless, NULL, NULL) == PTTH_OK);
        CHECK(ptth_request_done(request) == PTTH_CLOSED);
    }
    request = next(device, "/nothing");
    CHECK(ptth_request_done(request) == PTTH_OK);

    CHECK(ptth_device_stop(device, 1000) == PTTH_OK && ptth_device_wait(device) == PTTH_OK);
    CHECK(ptth_receive(device, -1, &request) == PTTH_STOPPED && request == NULL);
    CHECK(ptth_device_state(device, &state) == PTTH_OK && state.transport == PTTH_OFFLINE && state.links == 0);
    ptth_device_free(device);

    CHECK(ptth_serve(options, silent, over, NULL, &device) == PTTH_OK);
    CHECK(ptth_receive(device, 0, &request) == PTTH_USAGE);
    CHECK(ended == 17);
    ptth_device_free(device);
    CHECK(ended == 18);
    CHECK(ptth_forward(options, "http://127.0.0.1:9", &device) == PTTH_OK);
    ptth_options_free(options);
    ptth_device_free(device);
    puts("all calls as expected");
    return 0;
}
