/* What the kernel runs: becomes the init under test, whose command are its arguments, and leaves a process that asks the
 * web server for its page a thousand times a second until it has it. That tells the times since the kernel's start on
 * the second serial port, and switches the machine off. `page INIT ARG…` */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define PORT "/bench/port"

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* Whether the page came, whole. */
static int asked(void)
{
	static const char request[] = "GET / HTTP/1.0\r\n\r\n";
	char page[4096];
	ssize_t length = 0, more = 1;
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(80) };
	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (server < 0)
		return 0;
	if (!connect(server, (struct sockaddr *)&to, sizeof to) && write(server, request, sizeof request - 1) > 0)
		while (more > 0 && length < (ssize_t)sizeof page - 1) {
			more = read(server, page + length, sizeof page - 1 - (size_t)length);
			length += more > 0 ? more : 0;
		}
	close(server);
	page[length] = 0;
	return strstr(page, " 200 OK") && strstr(page, "</html>");
}

int main(int argc, char **argv)
{
	struct timespec pause = { 0, 1000000 };
	if (argc < 2)
		return 2;
	mknod(PORT, S_IFCHR | 0600, makedev(4, 65));
	long long executed = now();
	if (fork()) {
		execv(argv[1], argv + 1);
		return 127;
	}
	setsid();
	/* Its working directory and root are nobody's that is unmounted or changed. */
	FILE *out = fopen(PORT, "we");
	if (!out)
		return 1;
	while (!asked())
		nanosleep(&pause, NULL);
	fprintf(out, "exec %lld\npage %lld\n", executed, now());
	fclose(out);
	reboot(RB_POWER_OFF);
	return 1;
}
