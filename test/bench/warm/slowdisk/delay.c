/*
 * Makes reads of files wait, unless the operating system has them in its cache:
 * a fast local disk then behaves as storage behind a network does. Preloaded
 * into the server whose cache is cold. BENCH_READ_DELAY_US is the wait.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static ssize_t slow(int fd, const struct iovec *parts, int count, off_t at)
{
	size_t wanted = 0;
	for (int i = 0; i < count; i++)
		wanted += parts[i].iov_len;

	/* Only what is cached; the rest of it, or EAGAIN, takes a while. */
	ssize_t got = preadv2(fd, parts, count, at, RWF_NOWAIT);
	if (got == (ssize_t) wanted)
		return got;
	if (got > 0 || (got < 0 && errno == EAGAIN)) {
		const char *text = getenv("BENCH_READ_DELAY_US");
		long us = text ? atol(text) : 0;
		struct timespec wait = {us / 1000000, us % 1000000 * 1000};
		nanosleep(&wait, NULL);
	}
	return syscall(SYS_preadv, fd, parts, count, at, 0);
}

ssize_t preadv(int fd, const struct iovec *parts, int count, off_t at)
{
	return slow(fd, parts, count, at);
}

ssize_t preadv64(int fd, const struct iovec *parts, int count, off_t at)
{
	return slow(fd, parts, count, at);
}

ssize_t pread(int fd, void *buffer, size_t bytes, off_t at)
{
	struct iovec part = {buffer, bytes};
	return slow(fd, &part, 1, at);
}

ssize_t pread64(int fd, void *buffer, size_t bytes, off_t at)
{
	struct iovec part = {buffer, bytes};
	return slow(fd, &part, 1, at);
}
