/* The floor: a PID 1 that does nothing but what must be done. `floor N` forks and executes N services and the probe,
 * starts what died again, reaps the rest, and on SIGUSR2 ends everything and switches off. */
#include "bare.h"
#include <linux/reboot.h>
#include <signal.h>
#include <sys/wait.h>

#define MOST 1100

static long pids[MOST];

static void start(int n, int probe, const unsigned long *before, char **environment)
{
	long pid = CALL(fork, 0);
	if (pid == 0) {
		char name[16];
		char *service[] = { "/bench/service", name, NULL }, *measure[] = { "/bench/probe", NULL };
		*add_number(add(name, "s"), n) = 0;
		CALL(rt_sigprocmask, SIG_SETMASK, before, NULL, 8);
		CALL(execve, n == probe ? measure[0] : service[0], n == probe ? measure : service, environment);
		end(1);
	}
	pids[n] = pid;
}

int run(int argc, char **argv, char **environment)
{
	int count = argc > 1 ? (int)number(argv[1]) : 0, down = 0;
	unsigned long waited = 1UL << (SIGCHLD - 1) | 1UL << (SIGUSR2 - 1), before;
	if (count >= MOST)
		return 1;
	CALL(rt_sigprocmask, SIG_BLOCK, &waited, &before, 8);
	for (int n = 0; n <= count; n++)
		start(n, count, &before, environment);
	for (;;) {
		long dead;
		if (CALL(rt_sigtimedwait, &waited, NULL, NULL, 8) == SIGUSR2) {
			down = 1;
			CALL(kill, -1, SIGTERM);
		}
		while ((dead = CALL(wait4, -1, NULL, WNOHANG, NULL)) > 0)
			for (int n = 0; !down && n <= count; n++)
				if (pids[n] == dead)
					start(n, count, &before, environment);
		if (down && dead < 0) {
			CALL(sync, 0);
			CALL(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF);
		}
	}
}
