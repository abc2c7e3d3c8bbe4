/* Runs a command, and writes what it used with all that it started and waited for: microseconds in its own code and in
 * the kernel, the largest resident size of one process in KiB, microseconds from its start to its end, and its exit
 * code. `measure FILE COMMAND ARG…` */
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

int main(int argc, char **argv)
{
	struct rusage used;
	int status;
	if (argc < 3)
		return 2;
	long long began = now();
	pid_t pid = fork();
	if (pid == 0) {
		execv(argv[2], argv + 2);
		_exit(127);
	}
	if (pid < 0 || wait4(pid, &status, 0, &used) != pid)
		return 1;
	long long ended = now();
	FILE *out = fopen(argv[1], "we");
	if (!out)
		return 1;
	fprintf(out, "%lld %lld %ld %lld %d\n", used.ru_utime.tv_sec * 1000000LL + used.ru_utime.tv_usec,
		used.ru_stime.tv_sec * 1000000LL + used.ru_stime.tv_usec, used.ru_maxrss, ended - began,
		WIFEXITED(status) ? WEXITSTATUS(status) : -1);
	return fclose(out) != 0;
}
