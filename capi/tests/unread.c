/* Nobody reads the log: ./unread, with a pipe as standard error that is closed at its other end. */
#include <ptth.h>
#include <stdio.h>

int main(void) {
    ptth_options *options = ptth_options_new("http://127.0.0.1:1/lamp"); /* nothing answers there */
    ptth_device *device;
    ptth_log_to_stderr(PTTH_LOG_DEBUG);
    ptth_options_backoff(options, 1, 2);
    ptth_options_max_retries(options, 3);
    if (ptth_forward(options, "http://127.0.0.1:1", &device) != PTTH_OK) return 1;
    ptth_options_free(options);
    ptth_status status = ptth_device_wait(device); /* it has logged each attempt */
    ptth_status again = ptth_device_wait(device);
    ptth_device_free(device);
    printf("%d %d\n", status, again);
    return 0;
}
