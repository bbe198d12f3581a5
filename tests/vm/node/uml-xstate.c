/* linux.uml 6.1 keeps room for 2696 bytes of extended register state. On a host whose CPU has more
 * (AMX: 11008 bytes) the host's kernel refuses to set a part of it, and UML dies at its first
 * process. This stands between the two (LD_PRELOAD): what UML does not know is left as it is. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

long ptrace(enum __ptrace_request request, ...)
{
	static long (*real)(enum __ptrace_request, ...);
	static char all[65536];
	va_list args;
	va_start(args, request);
	pid_t pid = va_arg(args, pid_t);
	void *addr = va_arg(args, void *);
	void *data = va_arg(args, void *);
	va_end(args);
	if (!real)
		real = dlsym(RTLD_NEXT, "ptrace");
	if (request != PTRACE_SETREGSET || addr != (void *)NT_X86_XSTATE)
		return real(request, pid, addr, data);
	struct iovec *part = data, whole = { all, sizeof all };
	if (real(PTRACE_GETREGSET, pid, addr, &whole) != 0 || whole.iov_len <= part->iov_len)
		return real(request, pid, addr, data);
	memcpy(all, part->iov_base, part->iov_len);
	return real(request, pid, addr, &whole);
}
