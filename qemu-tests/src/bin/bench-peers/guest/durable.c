/* The floors of an apply that outlives a loss of power: `durable each|together DIRECTORY N` writes N files of the size of
 * a configuration file, makes them durable, and puts them in their places, where they are durable too. Either each by
 * itself, or all of them together. Tells how many milliseconds that took. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char text[4096], from[4096], to[4096];

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static int put(int n, int durable)
{
	int length = snprintf(text, sizeof text, "# file %d\n", n);
	for (int line = 0; line < 8; line++)
		length += snprintf(text + length, sizeof text - (size_t)length, "a setting = some value of it\n");
	snprintf(from, sizeof from, ".%d", n);
	int file = open(from, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	int wrong = write(file, text, (size_t)length) != length || (durable && fsync(file));
	close(file);
	return wrong;
}

static int name(int n)
{
	snprintf(from, sizeof from, ".%d", n);
	snprintf(to, sizeof to, "%d", n);
	return rename(from, to);
}

int main(int argc, char **argv)
{
	int wrong = 0, count = argc > 3 ? atoi(argv[3]) : 0;
	if (argc < 4 || (mkdir(argv[2], 0755), chdir(argv[2])))
		return 2;
	int here = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int each = !strcmp(argv[1], "each");
	long long began = now();
	for (int n = 0; n < count; n++)
		wrong |= put(n, each) || (each && (name(n) || fsync(here)));
	if (!each) {
		wrong |= syncfs(here);
		for (int n = 0; n < count; n++)
			wrong |= name(n);
		wrong |= syncfs(here);
	}
	printf("%lld\n", now() - began);
	return wrong;
}
