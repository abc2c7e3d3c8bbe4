/* A service: `service NAME[,READINESS]`. Writes down when it started, says that it is ready, and sleeps.
 * As the interpreter of a run script (`#!/bench/service NAME`) it gets further arguments, which mean nothing. */
#include "bare.h"
#include <sys/socket.h>
#include <sys/un.h>

static int notify(char **environment)
{
	struct sockaddr_un to = { .sun_family = AF_UNIX };
	for (; *environment; environment++) {
		const char *path = behind(*environment, "NOTIFY_SOCKET=");
		if (!path || length_of(path) >= sizeof to.sun_path)
			continue;
		memcpy(to.sun_path, path, length_of(path));
		if (to.sun_path[0] == '@')
			to.sun_path[0] = 0;
		size_t length = offsetof(struct sockaddr_un, sun_path) + length_of(path);
		long socket = CALL(socket, AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC);
		long sent = CALL(sendto, socket, "READY=1", 7, 0, &to, length);
		CALL(close, socket);
		return sent < 0;
	}
	return 1;
}

static int write_pid(const char *path)
{
	char text[24], *after = add(add_number(text, CALL(getpid, 0)), "\n");
	long file = CALL(open, path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	long written = CALL(write, file, text, after - text);
	CALL(close, file);
	return written != after - text;
}

int run(int argc, char **argv, char **environment)
{
	char line[128], *name, *ready, *at;
	const char *rest;
	if (argc < 2 || length_of(argv[1]) > 60)
		return 1;
	name = ready = argv[1];
	while (*ready && *ready != ',')
		ready++;
	if (*ready)
		*ready++ = 0;
	at = add(add(line, "service "), name);
	at = add(add_number(add(at, " "), CALL(getpid, 0)), " ");
	note(line, add_number(at, now()));
	if (behind(ready, "notify") && notify(environment))
		return 1;
	if ((rest = behind(ready, "fd="))) {
		if (CALL(write, number(rest), "\n", 1) != 1)
			return 1;
		CALL(close, number(rest));
	}
	if ((rest = behind(ready, "pid=")) && write_pid(rest))
		return 1;
	for (;;)
		CALL(pause, 0);
}
