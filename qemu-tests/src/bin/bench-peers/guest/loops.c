/* The floors of configuration: what has to be done with N files, and nothing else. `loops check|stat|write|repair N`,
 * for /srv/managed/0 and on; files are a hundred to a directory. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
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

static int look(int n)
{
	char name[64];
	struct stat about;
	path(name, "", n);
	return stat(name, &about) || about.st_size != (off_t)content(n);
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

/* Somebody else's work: he is not waited for, so that nothing of it is counted here. */
static void damage(int count)
{
	char file[64];
	signal(SIGCHLD, SIG_IGN);
	if (fork())
		return;
	for (int n = 0; n < count; n++) {
		path(file, "", n);
		int damaged = open(file, O_WRONLY | O_TRUNC | O_CLOEXEC);
		if (write(damaged, "damaged\n", 8) != 8)
			_exit(1);
		close(damaged);
	}
	_exit(0);
}

/* Each of the first files, of one directory, is damaged: told by inotify, it is read, compared, written and renamed. */
static int repair(int count)
{
	char events[4096] __attribute__((aligned(8)));
	int told = inotify_init1(IN_CLOEXEC), wrong = 0;
	if (inotify_add_watch(told, "/srv/managed/0", IN_CLOSE_WRITE) < 0)
		return 1;
	damage(count);
	for (int done = 0; done < count && !wrong;) {
		ssize_t length = read(told, events, sizeof events);
		wrong = length <= 0;
		for (char *at = events; at < events + length;) {
			struct inotify_event *event = (struct inotify_event *)at;
			at += sizeof *event + event->len;
			if (!event->len || event->name[0] == '.')
				continue;
			int n = atoi(event->name);
			if (check(n)) {
				wrong |= put(n) || name(n);
				done++;
			}
		}
	}
	return wrong;
}

int main(int argc, char **argv)
{
	int count = argc > 2 ? atoi(argv[2]) : 0, wrong = 0;
	char directory[64];
	if (argc < 3)
		return 2;
	if (!strcmp(argv[1], "repair"))
		return repair(count);
	mkdir("/srv/managed", 0755);
	for (int n = 0; n < count; n += 100) {
		sprintf(directory, "/srv/managed/%d", n / 100);
		mkdir(directory, 0755);
	}
	for (int n = 0; n < count; n++) {
		if (!strcmp(argv[1], "check"))
			wrong |= check(n);
		else if (!strcmp(argv[1], "stat"))
			wrong |= look(n);
		else
			wrong |= put(n) || name(n);
	}
	return wrong;
}
