#ifndef PTTH_H
#define PTTH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * ptth.h: the device side of reverse-http, for C and whatever calls C.
 *
 * A device dials out to a gateway, and answers the requests that come back over that connection.
 * Link with libptth (pkg-config ptth); docs/c.md of the project has a program and the rules.
 *
 * Strings are NUL-terminated UTF-8 and copied; a pointer that is given out is valid as long as the
 * object that it was asked of. No object may be NULL unless its function says so: NULL is
 * PTTH_USAGE. Functions with an object of type ptth_device may be called from any thread at any
 * time, except ptth_device_free, which is the last; options and requests are one thread's at a time.
 * Callbacks run on threads of the library, several at once. No function unwinds into the caller: a
 * panic of the library is PTTH_PANIC.
 */


/**
 * The result of a call. `ptth_last_error()` has the details.
 */
typedef enum {
  /**
   * The call succeeded.
   */
  PTTH_OK = 0,
  /**
   * The call cannot work: an argument, an option, or their combination is wrong.
   */
  PTTH_USAGE = 1,
  /**
   * The time has passed without a result.
   */
  PTTH_TIMEOUT = 2,
  /**
   * The device has ended: it was stopped.
   */
  PTTH_STOPPED = 3,
  /**
   * The gateway refused the device.
   */
  PTTH_REFUSED = 4,
  /**
   * The connection of this request has ended, or its bytes violate the protocol.
   */
  PTTH_CLOSED = 5,
  /**
   * A bound was reached, or the message is too large.
   */
  PTTH_FULL = 6,
  /**
   * The operating system failed: threads, descriptors, files.
   */
  PTTH_SYSTEM = 7,
  /**
   * A defect of the library; please report it. The object may only be freed.
   */
  PTTH_PANIC = 8,
  /**
   * Anything else.
   */
  PTTH_FAILED = 9,
} ptth_status;

/**
 * The level of logging: lines of this level and of those above it are logged.
 */
typedef enum {
  /**
   * Something does not work.
   */
  PTTH_LOG_ERROR = 1,
  /**
   * Something may not work.
   */
  PTTH_LOG_WARN = 2,
  /**
   * Connected, disconnected, and why.
   */
  PTTH_LOG_INFO = 3,
  /**
   * Each step.
   */
  PTTH_LOG_DEBUG = 4,
} ptth_level;

/**
 * How the device and a gateway are connected.
 */
typedef enum {
  /**
   * Not connected.
   */
  PTTH_OFFLINE = 0,
  /**
   * By upgraded connections (links).
   */
  PTTH_UPGRADE = 1,
  /**
   * By polls of the fallback (COMET).
   */
  PTTH_COMET = 2,
} ptth_transport;

/**
 * When the fallback (COMET: long polling) is used.
 */
typedef enum {
  /**
   * If connections cannot be upgraded: the default.
   */
  PTTH_FALLBACK_AUTO = 0,
  /**
   * Never: connections have to be upgraded.
   */
  PTTH_FALLBACK_NEVER = 1,
  /**
   * Always: no connection is upgraded.
   */
  PTTH_FALLBACK_ONLY = 2,
} ptth_fallback;

/**
 * A running device; an opaque object.
 */
typedef struct ptth_device ptth_device;

/**
 * The settings of a device; an opaque object.
 */
typedef struct ptth_options ptth_options;

/**
 * One request, and its future response; an opaque object.
 */
typedef struct ptth_request ptth_request;

/**
 * Gets one line without its end. It runs on any thread that logs, possibly on several at once, and
 * must neither call the library nor block: the device would block with it.
 */
typedef void (*ptth_log_callback)(ptth_level level, const char *line, void *user);

/**
 * Answers one request with ptth_respond or a similar function. It runs on a thread of the library,
 * possibly on several at once (ptth_options_handlers), with a stack of 2 MiB. The request is valid
 * until it returns. Then its response is sent: a 500 if it gave none.
 */
typedef void (*ptth_handler)(ptth_request *request, void *user);

/**
 * Called once, when the library no longer uses `user`.
 */
typedef void (*ptth_release_callback)(void *user);

/**
 * The current state of a device, over all its gateways.
 */
typedef struct {
  /**
   * The transport of its gateway, or of the first one that is connected.
   */
  ptth_transport transport;
  /**
   * Upgraded connections.
   */
  size_t links;
  /**
   * Polls, those with a request in progress included.
   */
  size_t polls;
  /**
   * Links with a request in progress.
   */
  size_t busy;
  /**
   * Connections that are being established.
   */
  size_t dialing;
  /**
   * Requests since the start.
   */
  uint64_t requests;
} ptth_state;

/**
 * Provides bytes of a body: writes at most `size` of them to `buffer` and returns their number, 0
 * at the end, -1 for a failure (then the response is aborted). It may block.
 */
typedef ptrdiff_t (*ptth_read_callback)(void *user, void *buffer, size_t size);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

/**
 * Why the last failed call of this thread has failed: the operation, the fault, and the remedy.
 * Empty if none has failed. Valid until the next call that fails on this thread.
 */
const char *ptth_last_error(void);

/**
 * The version of the library, such as "0.1.0".
 */
const char *ptth_version(void);

/**
 * Passes the log lines of a level (`ptth_level`) and those above it to a callback, from now until
 * the process ends. `user` is passed to it unchanged. Only once in a process: later calls return
 * PTTH_USAGE. Without it, nothing is logged.
 */
ptth_status ptth_log(int level, ptth_log_callback callback, void *user);

/**
 * The same without a callback, for languages whose callbacks may not run on any thread: each line
 * is written to standard error, after its level. If that is a pipe, it has to be read, or the
 * device blocks.
 */
ptth_status ptth_log_to_stderr(int level);

/**
 * Options of a device of the gateway at this URL: "http://gw.example:9999/lamp" registers the name
 * "lamp"; https:// needs a library with TLS. NULL: the URL is NULL or not UTF-8. Its content is
 * checked when a device is started.
 */
ptth_options *ptth_options_new(const char *url);

/**
 * Frees options. Devices that were started with them are not affected. NULL is ignored.
 */
void ptth_options_free(ptth_options *options);

/**
 * Adds another gateway to which the device connects, too; up to 16 in all.
 */
ptth_status ptth_options_gateway(ptth_options *options, const char *url);

/**
 * Whether the gateways are used one at a time, in their order, instead of all at once (the
 * default).
 */
ptth_status ptth_options_failover(ptth_options *options, bool failover);

/**
 * Sends "Authorization: Bearer TOKEN" with the offer, to the gateways only.
 */
ptth_status ptth_options_token(ptth_options *options, const char *token);

/**
 * Sends a field with each offer, to the gateways only.
 */
ptth_status ptth_options_field(ptth_options *options, const char *name, const char *value);

/**
 * A proxy through which connections are made, with CONNECT: "http://proxy.example:3128".
 */
ptth_status ptth_options_proxy(ptth_options *options, const char *url);

/**
 * User and password for the proxy (Basic). Its URL must not contain them.
 */
ptth_status ptth_options_proxy_credentials(ptth_options *options,
                                           const char *user,
                                           const char *password);

/**
 * A host to which a gateway may redirect the device, in addition to the hosts of its own gateways:
 * "gw2.example", "*.gw.example", an address or a network; with ":PORT" only that port. May be
 * called several times.
 */
ptth_status ptth_options_redirect_host(ptth_options *options, const char *host);

/**
 * Whether a gateway's URL may have more than a name: then path and query are sent in the offer
 * unchanged, for other gateway software (not the default).
 */
ptth_status ptth_options_whole_target(ptth_options *options, bool whole);

/**
 * `Host` of requests that are forwarded to a local server (ptth_forward), instead of the visitor's.
 */
ptth_status ptth_options_host_header(ptth_options *options, const char *host);

/**
 * The least and the most links (upgraded connections) to each gateway (1 and 128 by default).
 */
ptth_status ptth_options_links(ptth_options *options, size_t least, size_t most);

/**
 * The least and the most polls of the fallback (2 and 64 by default).
 */
ptth_status ptth_options_polls(ptth_options *options, size_t least, size_t most);

/**
 * When the fallback is used: one of `ptth_fallback`.
 */
ptth_status ptth_options_fallback(ptth_options *options, int fallback);

/**
 * Pauses between attempts to connect, in milliseconds: they grow from the first to the second
 * (1,000 and 60,000 by default), with jitter.
 */
ptth_status ptth_options_backoff(ptth_options *options, uint32_t least_ms, uint32_t most_ms);

/**
 * Ends the device after this number of failed attempts in a row while it is not connected
 * (ptth_device_wait returns the reason); by default it never gives up.
 */
ptth_status ptth_options_max_retries(ptth_options *options, uint32_t attempts);

/**
 * The most callbacks that answer requests at once (64 by default); more requests wait.
 */
ptth_status ptth_options_handlers(ptth_options *options, size_t most);

/**
 * Whether the device ends when a gateway refuses its first offer, instead of trying again later
 * (the default).
 */
ptth_status ptth_options_stop_when_refused(ptth_options *options, bool stop);

/**
 * CA certificates (PEM) with which the gateway's certificate is verified, instead of the system's.
 * May be called several times.
 */
ptth_status ptth_options_ca(ptth_options *options, const char *pem);

/**
 * The public key of the gateway's certificate, "sha256/" and base64 (curl's "sha256//" is
 * accepted, too), instead of a chain to a CA. May be called several times.
 */
ptth_status ptth_options_pin(ptth_options *options, const char *pin);

/**
 * The earliest possible current time, in seconds since 1970, for a device that starts without a
 * clock. Without it, a device whose clock shows a time before 2026 waits until the clock is set.
 */
ptth_status ptth_options_clock_floor(ptth_options *options, uint64_t seconds);

/**
 * The certificate chain (PEM) that the device presents to the gateway, and its private key (PEM).
 */
ptth_status ptth_options_identity(ptth_options *options, const char *certificates, const char *key);

/**
 * Starts a device whose requests a callback answers, and stores it in `*device` (NULL if this
 * fails). `user` is passed to the callback unchanged. `release` (may be NULL) is called once, when
 * the device has ended and the last callback has returned, which may be after ptth_device_free;
 * and also if this function fails. The caller keeps the options.
 */
ptth_status ptth_serve(const ptth_options *options,
                       ptth_handler handler,
                       ptth_release_callback release,
                       void *user,
                       ptth_device **device);

/**
 * Starts a device that forwards its requests to a local HTTP server: "http://127.0.0.1:3000",
 * "unix:/run/app.sock". Requests need no threads. Stores it in `*device` (NULL if this fails).
 */
ptth_status ptth_forward(const ptth_options *options, const char *server, ptth_device **device);

/**
 * Starts a device whose requests the program receives with ptth_receive. Stores it in `*device`
 * (NULL if this fails).
 */
ptth_status ptth_open(const ptth_options *options, ptth_device **device);

/**
 * The next request of a device that ptth_open started, on one thread or on several: stored in
 * `*request`, which is NULL otherwise. Waits for at most `time_ms` milliseconds (negative: until
 * there is one). PTTH_TIMEOUT: there was none; PTTH_STOPPED, PTTH_REFUSED: there will be none.
 * Each request has to be ended with ptth_request_done.
 */
ptth_status ptth_receive(const ptth_device *device, int64_t time_ms, ptth_request **request);

/**
 * Stores the current state of the device in `*state`.
 */
ptth_status ptth_device_state(const ptth_device *device, ptth_state *state);

/**
 * Dials at once, without the rest of the pause after the last failure: for when the network is
 * back.
 */
ptth_status ptth_device_retry_now(const ptth_device *device);

/**
 * Accepts no new requests, lets requests in progress finish within the time, then ends the device:
 * with 0 they are cut. Returns when its connections have ended.
 */
ptth_status ptth_device_stop(const ptth_device *device, uint32_t time_ms);

/**
 * Waits until the device has ended: because it was stopped (PTTH_OK), was refused by its gateway,
 * or has used up its attempts. Each call on any thread returns the same.
 */
ptth_status ptth_device_wait(const ptth_device *device);

/**
 * Stops the device as with ptth_device_stop and 0, and frees it. No other call may use it then or
 * be in progress. A handler that still runs may continue after this; its request stays valid until
 * it returns. NULL is ignored.
 */
void ptth_device_free(ptth_device *device);

/**
 * The method, such as "GET". NULL for NULL.
 */
const char *ptth_request_method(const ptth_request *request);

/**
 * The target: the path, and the query if there is one, such as "/status?all". NULL for NULL.
 */
const char *ptth_request_target(const ptth_request *request);

/**
 * The value of the first field of this name, whatever the case of its letters; NULL if there is
 * none. It may have bytes that are not UTF-8.
 */
const char *ptth_request_field(const ptth_request *request, const char *name);

/**
 * The number of fields; those of the same name are counted separately. 0 for NULL.
 */
size_t ptth_request_fields(const ptth_request *request);

/**
 * A field by its number, from 0: its name in lower case, and its value. Either pointer may be
 * NULL. PTTH_USAGE after the last one.
 */
ptth_status ptth_request_field_at(const ptth_request *request,
                                  size_t number,
                                  const char **name,
                                  const char **value);

/**
 * Bytes of the body that are still to come; -1 if that is unknown until its end, or for NULL.
 */
int64_t ptth_request_length(ptth_request *request);

/**
 * Reads the next bytes of the body, at most `size`, and waits for the first of them. Returns their
 * number, 0 at the end, -1 if the body was cut (then the program does not have the whole body).
 */
ptrdiff_t ptth_request_read(ptth_request *request, void *buffer, size_t size);

/**
 * Adds a field to the response. The library itself writes those that frame the message or apply to
 * one connection (Content-Length, Transfer-Encoding, Trailer, Connection, Keep-Alive, Upgrade and
 * similar ones): PTTH_USAGE.
 */
ptth_status ptth_response_field(ptth_request *request, const char *name, const char *value);

/**
 * The response: its status, its content type (NULL: none), and its body (NULL with 0: empty),
 * which is copied. It is sent when the handler returns, or by ptth_request_done. Only once for
 * each request.
 */
ptth_status ptth_respond(ptth_request *request,
                         uint16_t code,
                         const char *content_type,
                         const void *body,
                         size_t length);

/**
 * The same with a file as its body, from its beginning to its current end. PTTH_SYSTEM: it cannot
 * be opened or read, or is a directory.
 */
ptth_status ptth_respond_file(ptth_request *request,
                              uint16_t code,
                              const char *content_type,
                              const char *path);

/**
 * The same with a body that a callback provides piece by piece, of `length` bytes, or of an
 * unknown length (-1). It is called on a thread of the library after the handler has returned,
 * until it returns 0 or -1, or the rest is not needed any more; `release` (may be NULL) is called
 * at the end, and also if this function fails.
 */
ptth_status ptth_respond_stream(ptth_request *request,
                                uint16_t code,
                                const char *content_type,
                                int64_t length,
                                ptth_read_callback read,
                                ptth_release_callback release,
                                void *user);

/**
 * Sends the response of a request that came from ptth_receive, and frees the request, whatever
 * this returns. Without a response, a 500 is sent. It must not be called for a handler's request.
 */
ptth_status ptth_request_done(ptth_request *request);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* PTTH_H */
