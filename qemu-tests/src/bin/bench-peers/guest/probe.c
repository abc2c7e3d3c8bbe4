/* One service more, that measures. It sleeps until all is long over, so that it disturbs nothing; then it writes what
 * it finds to the second serial port, a line a fact, and asks the init to shut down.
 *
 * /bench/plan has, a line each: seconds to sleep; seconds to watch rest; services to kill; orphans; then the words of
 * the command that shuts down (`signal N` for a signal to PID 1). */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NOTES "/bench/notes"
#define PROC "/bench/proc"

static FILE *out;

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void rest(long long nanoseconds)
{
	struct timespec t = { nanoseconds / 1000000000, nanoseconds % 1000000000 };
	while (nanosleep(&t, &t) != 0)
		;
}

/* The number behind "KEY:" in a file; 0 without. */
static long field(const char *path, const char *key)
{
	char line[256];
	long found = 0;
	FILE *file = fopen(path, "re");
	while (file && fgets(line, sizeof line, file))
		if (!strncmp(line, key, strlen(key)) && line[strlen(key)] == ':')
			found = atol(line + strlen(key) + 1);
	if (file)
		fclose(file);
	return found;
}

/* Whether a process belongs to the init: it is neither a thread of the kernel, nor a service, nor the probe. */
static int of_init(const char *pid, char *program, size_t size)
{
	char path[300];
	snprintf(path, sizeof path, PROC "/%s/exe", pid);
	ssize_t length = readlink(path, program, size - 1);
	if (length <= 0)
		return 0;
	program[length] = 0;
	return strcmp(program, "/bench/service") && strcmp(program, "/bench/probe");
}

static void each_process(void (*with)(const char *pid, const char *program))
{
	char program[256];
	DIR *directory = opendir(PROC);
	struct dirent *entry;
	while (directory && (entry = readdir(directory)))
		if (entry->d_name[0] >= '1' && entry->d_name[0] <= '9' && of_init(entry->d_name, program, sizeof program))
			with(entry->d_name, program);
	if (directory)
		closedir(directory);
}

static const char *moment;

static void tell_switches(const char *pid, const char *program)
{
	char path[300];
	snprintf(path, sizeof path, PROC "/%s/status", pid);
	fprintf(out, "switches %s %s %ld %s\n", moment, pid,
		field(path, "voluntary_ctxt_switches") + field(path, "nonvoluntary_ctxt_switches"), program);
}

static void tell_memory(const char *pid, const char *program)
{
	char path[300], line[512], file[256];
	struct stat about;
	snprintf(path, sizeof path, PROC "/%s/smaps_rollup", pid);
	fprintf(out, "memory %s %ld %ld %s\n", pid, field(path, "Pss"), field(path, "Anonymous"), program);
	snprintf(path, sizeof path, PROC "/%s/maps", pid);
	FILE *maps = fopen(path, "re");
	while (maps && fgets(line, sizeof line, maps))
		if (sscanf(line, "%*s r-x%*c %*s %*s %*s %255s", file) == 1 && file[0] == '/' && !stat(file, &about))
			fprintf(out, "mapped %lld %s\n", (long long)about.st_size, file);
	if (maps)
		fclose(maps);
}

static void tell_kernel(void)
{
	static const char *const keys[] = { "Slab", "KernelStack", "PageTables", "Percpu", "VmallocUsed" };
	for (size_t n = 0; n < sizeof keys / sizeof *keys; n++)
		fprintf(out, "kernel %s %ld\n", keys[n], field(PROC "/meminfo", keys[n]));
}

/* The last line about a service: its pid and when it started. */
static int last(const char *name, int *pid, long long *at)
{
	char line[256], is[64];
	int found = 0, number;
	long long time;
	FILE *notes = fopen(NOTES, "re");
	while (notes && fgets(line, sizeof line, notes))
		if (sscanf(line, "service %63s %d %lld", is, &number, &time) == 3 && !strcmp(is, name)) {
			*pid = number;
			*at = time;
			found = 1;
		}
	if (notes)
		fclose(notes);
	return found;
}

static void tell_restart(int n)
{
	char name[16];
	int pid;
	long long at, killed;
	snprintf(name, sizeof name, "s%d", n);
	if (!last(name, &pid, &at))
		return;
	killed = now();
	kill(pid, SIGKILL);
	rest(4000000000);
	int before = pid;
	if (last(name, &pid, &at) && pid != before)
		fprintf(out, "restarted %lld\n", at - killed);
}

static unsigned tasks(void)
{
	struct sysinfo about;
	sysinfo(&about);
	return about.procs;
}

#define STACK 4096

static int orphan(void *gate)
{
	char byte;
	_exit(read(*(int *)gate, &byte, 1) != 0);
}

/* Processes whose parent has ended, and which all end at once: how long until PID 1 has seen to every one. They share
 * their memory, so that their own end is short. */
static void tell_orphans(int count)
{
	int gate[2], status;
	unsigned before = tasks();
	char *stacks = mmap(NULL, (size_t)count * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stacks == MAP_FAILED || pipe(gate))
		return;
	pid_t parent = fork();
	if (parent == 0) {
		close(gate[1]);
		for (int n = 1; n <= count; n++)
			if (clone(orphan, stacks + (size_t)n * STACK, CLONE_VM | SIGCHLD, gate) < 0)
				_exit(1);
		_exit(0);
	}
	waitpid(parent, &status, 0);
	close(gate[0]);
	rest(1000000000);
	if (status != 0 || tasks() < before + (unsigned)count)
		return;
	long long started = now();
	close(gate[1]);
	while (tasks() > before && now() - started < 60000000000)
		rest(100000);
	if (tasks() <= before)
		fprintf(out, "reaped %lld\n", now() - started);
}

static void tell_notes(void)
{
	char line[256];
	FILE *notes = fopen(NOTES, "re");
	while (notes && fgets(line, sizeof line, notes))
		fputs(line, out);
	if (notes)
		fclose(notes);
}

/* The kernel's log has the time of this line and that of its own last one. */
static void shut_down(char **words)
{
	int log = open("/bench/kmsg", O_WRONLY | O_CLOEXEC);
	if (log >= 0 && write(log, "<0>bench: down\n", 15) != 15)
		return;
	if (!strcmp(words[0], "signal"))
		kill(1, atoi(words[1]));
	else if (fork() == 0)
		_exit(execv(words[0], words));
}

int main(void)
{
	static char text[4096];
	static char *words[64];
	int count = 0;
	long figures[4] = { 0 };
	int plan = open("/bench/plan", O_RDONLY | O_CLOEXEC);
	if (plan < 0 || read(plan, text, sizeof text - 1) <= 0)
		return 1;
	for (char *word = strtok(text, "\n"); word && count < 60; word = strtok(NULL, "\n"), count++)
		if (count < 4)
			figures[count] = atol(word);
		else
			words[count - 4] = word;
	rest(figures[0] * 1000000000);

	mknod("/bench/port", S_IFCHR | 0600, makedev(4, 65));
	mknod("/bench/kmsg", S_IFCHR | 0600, makedev(1, 11));
	mkdir(PROC, 0755);
	out = fopen("/bench/port", "we");
	if (!out || mount("proc", PROC, "proc", 0, NULL))
		return 1;
	tell_notes();
	each_process(tell_memory);
	tell_kernel();
	moment = "before";
	each_process(tell_switches);
	fflush(out);
	rest(figures[1] * 1000000000);
	moment = "after";
	each_process(tell_switches);
	for (int n = 0; n < figures[2]; n++)
		tell_restart(n);
	if (figures[3])
		tell_orphans((int)figures[3]);
	fprintf(out, "end\n");
	fclose(out);
	umount2(PROC, MNT_DETACH);
	shut_down(words);
	for (;;)
		pause();
}
