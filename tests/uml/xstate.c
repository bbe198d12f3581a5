/*
 * Lets user-mode Linux 6.1 run on processors with large register files (Intel AMX). It restores the
 * floating point state of its processes with a buffer of fixed size; the kernel takes nothing but
 * the whole state, so the call fails with EFAULT and the machine dies at its first process. Loaded
 * before it with LD_PRELOAD, this fills the rest of the buffer with the state as it is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

typedef long (*ptrace_fn)(int, ...);

long ptrace(enum __ptrace_request request, ...)
{
	static ptrace_fn real;
	static char whole[65536];
	va_list args;
	va_start(args, request);
	int pid = va_arg(args, int);
	void *addr = va_arg(args, void *);
	void *data = va_arg(args, void *);
	va_end(args);

	if (!real)
		real = (ptrace_fn)dlsym(RTLD_NEXT, "ptrace");
	if (request == PTRACE_SETREGSET && (long)addr == NT_X86_XSTATE) {
		struct iovec *part = data;
		struct iovec all = { whole, sizeof(whole) };
		if (real(PTRACE_GETREGSET, pid, addr, &all) == 0 && all.iov_len > part->iov_len) {
			memcpy(whole, part->iov_base, part->iov_len);
			return real(request, pid, addr, &all);
		}
	}
	return real(request, pid, addr, data);
}
