/* The last step of those inits that leave it to a script: everything is down, switch off. */
#include "bare.h"
#include <linux/reboot.h>

int run(int argc, char **argv, char **environment)
{
	(void)argc, (void)argv, (void)environment;
	CALL(sync, 0);
	return (int)CALL(reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_POWER_OFF);
}
