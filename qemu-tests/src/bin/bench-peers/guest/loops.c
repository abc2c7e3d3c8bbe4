/* The floors of configuration: what has to be done with N files, and nothing else. `loops check|write|durable N`, for
 * /srv/managed/0 and on; files are a hundred to a directory. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char wanted[4096], found[4096];

static size_t content(int n)
{
	int length = snprintf(wanted, sizeof wanted, "# file %d\n", n);
	for (int line = 0; line < 8; line++)
		length += snprintf(wanted + length, sizeof wanted - (size_t)length, "a setting = some value of it\n");
	return (size_t)length;
}

static void path(char *to, const char *before, int n)
{
	sprintf(to, "/srv/managed/%d/%s%d", n / 100, before, n);
}

static int check(int n)
{
	char name[64];
	size_t length = content(n);
	path(name, "", n);
	int file = open(name, O_RDONLY | O_CLOEXEC);
	ssize_t got = read(file, found, sizeof found);
	close(file);
	return got != (ssize_t)length || memcmp(found, wanted, length);
}

static int put(int n)
{
	char name[64];
	size_t length = content(n);
	path(name, ".", n);
	int file = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	ssize_t written = write(file, wanted, length);
	close(file);
	return written != (ssize_t)length;
}

static int name(int n)
{
	char from[64], to[64];
	path(from, ".", n);
	path(to, "", n);
	return rename(from, to);
}

static int flush(void)
{
	int directory = open("/srv/managed", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int result = syncfs(directory);
	close(directory);
	return result;
}

int main(int argc, char **argv)
{
	int count = argc > 2 ? atoi(argv[2]) : 0, wrong = 0;
	char directory[64];
	if (argc < 3)
		return 2;
	mkdir("/srv/managed", 0755);
	for (int n = 0; n < count; n += 100) {
		sprintf(directory, "/srv/managed/%d", n / 100);
		mkdir(directory, 0755);
	}
	if (!strcmp(argv[1], "check")) {
		for (int n = 0; n < count; n++)
			wrong |= check(n);
	} else if (!strcmp(argv[1], "write")) {
		for (int n = 0; n < count; n++)
			wrong |= put(n) || name(n);
	} else {
		for (int n = 0; n < count; n++)
			wrong |= put(n);
		wrong |= flush();
		for (int n = 0; n < count; n++)
			wrong |= name(n);
		wrong |= flush();
	}
	return wrong;
}
