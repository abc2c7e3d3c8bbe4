//! A machine in QEMU: started with an image, driven over its console and QEMU's own control socket, and gone when
//! the value is dropped.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Result;
use crate::console::{Answer, Console};
use crate::context::Image;

/// How the machine's processor is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// By the host's processor.
    Kvm,
    /// Emulated: some ten times slower, and available everywhere.
    Tcg,
}

impl Accelerator {
    /// QEMU's arguments for it.
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            Accelerator::Kvm => &["-accel", "kvm", "-cpu", "host"],
            Accelerator::Tcg => &["-accel", "tcg", "-cpu", "qemu64,-cx16"],
        }
    }

    /// How much longer things take than on the host's own processor, for deadlines.
    pub fn slowness(self) -> u32 {
        match self {
            Accelerator::Kvm => 1,
            Accelerator::Tcg => 3,
        }
    }
}

/// A disk, where every write to it is written down, if it is, how many bytes a second it takes, if not all, and a sector
/// that cannot be read nor written, if there is one.
#[derive(Debug, Clone)]
struct Disk {
    file: PathBuf,
    log: Option<PathBuf>,
    pace: Option<u64>,
    bad: Option<u64>,
}

/// A machine that is not yet started.
#[derive(Debug, Clone)]
pub struct Machine {
    image: Image,
    accelerator: Accelerator,
    memory: u32,
    processors: u32,
    command_line: String,
    disks: Vec<Disk>,
    count_instructions: bool,
    forward: Vec<(u16, u16)>,
    watchdog: bool,
    shell: bool,
    limit: Duration,
    echo: bool,
}

impl Machine {
    /// A machine with 768 MiB and one processor, a serial console, and a second console for tests (`/dev/hvc0`).
    pub fn new(image: &Image, accelerator: Accelerator) -> Machine {
        Machine {
            image: image.clone(),
            accelerator,
            memory: 768,
            processors: 1,
            command_line: "console=ttyS0 quiet panic=-1".to_owned(),
            disks: Vec::new(),
            count_instructions: false,
            forward: Vec::new(),
            watchdog: false,
            shell: false,
            limit: Duration::from_secs(60) * accelerator.slowness(),
            echo: false,
        }
    }

    /// Memory in MiB.
    pub fn memory(mut self, mib: u32) -> Machine {
        self.memory = mib;
        self
    }

    /// Number of processors.
    pub fn processors(mut self, n: u32) -> Machine {
        self.processors = n;
        self
    }

    /// Adds words to the kernel command line.
    pub fn append(mut self, words: &str) -> Machine {
        self.command_line.push(' ');
        self.command_line.push_str(words);
        self
    }

    /// Adds a virtio disk (`/dev/vda`, then `/dev/vdb` …) with this raw file as its content.
    pub fn disk(mut self, file: &Path) -> Machine {
        self.disks.push(Disk { file: file.to_path_buf(), log: None, pace: None, bad: None });
        self
    }

    /// Adds such a disk that takes no more than so many bytes a second.
    pub fn slow_disk(mut self, file: &Path, pace: u64) -> Machine {
        self.disks.push(Disk { file: file.to_path_buf(), log: None, pace: Some(pace), bad: None });
        self
    }

    /// Adds such a disk with a sector that cannot be read nor written, ever.
    pub fn bad_disk(mut self, file: &Path, sector: u64) -> Machine {
        self.disks.push(Disk { file: file.to_path_buf(), log: None, pace: None, bad: Some(sector) });
        self
    }

    /// Adds such a disk, and writes down in `log` every write to it ([`crate::write_log`]).
    pub fn recorded_disk(mut self, file: &Path, log: &Path) -> Machine {
        self.disks.push(Disk {
            file: file.to_path_buf(),
            log: Some(log.to_path_buf()),
            pace: None,
            bad: None,
        });
        self
    }

    /// Lets the machine's clock follow the instructions it executes, so that a busy host changes no time in it.
    pub fn count_instructions(mut self) -> Machine {
        self.count_instructions = true;
        self
    }

    /// Makes a TCP port of the machine a port of the host's loopback.
    pub fn forward(mut self, host: u16, guest: u16) -> Machine {
        self.forward.push((host, guest));
        self
    }

    /// Gives the machine a hardware watchdog that resets it.
    pub fn watchdog(mut self) -> Machine {
        self.watchdog = true;
        self
    }

    /// Commands go over the second console, `/dev/hvc0`, on which the state must start a shell: the machine's own
    /// messages on the first one then never stand in an answer.
    pub fn shell_on_second_console(mut self) -> Machine {
        self.shell = true;
        self
    }

    /// Limit of every wait, before it is stretched for an emulated processor.
    pub fn limit(mut self, limit: Duration) -> Machine {
        self.limit = limit * self.accelerator.slowness();
        self
    }

    /// Prints the console as it comes.
    pub fn echo(mut self) -> Machine {
        self.echo = true;
        self
    }

    /// The command that runs the machine, without what connects its consoles.
    ///
    /// # Errors
    /// When the image has no kernel.
    pub fn command(&self) -> Result<Command> {
        let kernel = self.image.kernel.as_ref().ok_or("the image has no kernel")?;
        let mut c = Command::new("qemu-system-x86_64");
        c.args(self.accelerator.arguments());
        c.args(["-nodefaults", "-display", "none", "-no-reboot"]);
        c.arg("-m").arg(self.memory.to_string());
        c.arg("-smp").arg(self.processors.to_string());
        c.arg("-kernel").arg(kernel);
        c.arg("-initrd").arg(&self.image.initramfs);
        c.arg("-append").arg(&self.command_line);
        c.args(["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"]);
        for (n, disk) in self.disks.iter().enumerate() {
            let Disk { file, log, pace, bad } = disk;
            match (log, pace) {
                (None, None) if bad.is_some() => {
                    let mut node = format!("driver=blkdebug,node-name=disk{n},image=file{n}");
                    for (rule, kind) in ["read", "write"].iter().enumerate() {
                        let rule = format!("inject-error.{rule}");
                        let sector = bad.unwrap_or_default();
                        node += &format!(
                            ",{rule}.event=none,{rule}.iotype={kind},{rule}.errno=5,{rule}.sector={sector}"
                        );
                    }
                    c.arg("-blockdev").arg(file_node(&format!("file{n}"), file));
                    c.arg("-blockdev").arg(node)
                }
                (None, None) => c.arg("-blockdev").arg(file_node(&format!("disk{n}"), file)),
                (None, Some(pace)) => {
                    c.arg("-object").arg(format!("throttle-group,id=pace{n},x-bps-write={pace}"));
                    c.arg("-blockdev").arg(file_node(&format!("file{n}"), file));
                    c.arg("-blockdev")
                        .arg(format!("driver=throttle,node-name=disk{n},file=file{n},throttle-group=pace{n}"))
                }
                (Some(log), _) => {
                    c.arg("-blockdev").arg(file_node(&format!("file{n}"), file));
                    c.arg("-blockdev").arg(file_node(&format!("log{n}"), log));
                    c.arg("-blockdev").arg(format!(
                        "driver=blklogwrites,node-name=disk{n},file=file{n},log=log{n},log-sector-size=512"
                    ))
                }
            };
            c.arg("-device").arg(format!("virtio-blk-pci,drive=disk{n},id=disk{n}-device"));
        }
        if self.count_instructions {
            c.args(["-icount", "shift=auto,sleep=off"]);
        }
        let mut network = "user,id=net,restrict=on".to_owned();
        for (host, guest) in &self.forward {
            network.push_str(&format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}"));
        }
        c.arg("-netdev").arg(network).args(["-device", "virtio-net-pci,netdev=net,romfile="]);
        if self.watchdog {
            c.args(["-device", "i6300esb", "-watchdog-action", "reset"]);
        }
        Ok(c)
    }

    /// Starts it.
    ///
    /// # Errors
    /// When QEMU cannot be started or its sockets do not appear.
    pub fn start(self) -> Result<Qemu> {
        let (control, their_control) = UnixStream::pair()?;
        let (second, their_second) = UnixStream::pair()?;
        let mut command = self.command()?;
        command.args(["-serial", "stdio"]);
        command.arg("-chardev").arg(format!("socket,id=control,fd={}", their_control.as_raw_fd()));
        command.args(["-mon", "chardev=control,mode=control"]);
        command.arg("-chardev").arg(format!("socket,id=second,fd={}", their_second.as_raw_fd()));
        command.args(["-device", "virtio-serial-pci", "-device", "virtconsole,chardev=second"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        at_exec(&mut command, vec![their_control.as_raw_fd(), their_second.as_raw_fd()]);
        let mut child = command.spawn().map_err(|e| format!("cannot start qemu-system-x86_64: {e}"))?;
        let started = Instant::now();
        let (output, input) = (child.stdout.take(), child.stdin.take());
        let (output, input) = output.zip(input).ok_or("QEMU has no standard input and output")?;
        let echo = self.echo;
        let console = Console::new(output, input, move |text| {
            if echo {
                print!("{text}");
            }
        });
        drop((their_control, their_second));
        let second = Console::new(second.try_clone()?, second, |_| {});
        let mut monitor = Monitor { input: control.try_clone()?, output: BufReader::new(control) };
        if let Err(e) = monitor.command("qmp_capabilities", json!({})) {
            let _ = child.kill();
            let mut said = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                let _ = std::io::Read::read_to_string(&mut stderr, &mut said);
            }
            let _ = child.wait();
            return Err(format!("QEMU did not start: {e}\n{said}").into());
        }
        Ok(Qemu { child, console, second, use_second: self.shell, monitor, started, limit: self.limit })
    }
}

/// A node of QEMU's for a raw file; it goes through the host's cache, which outlives QEMU.
fn file_node(name: &str, file: &Path) -> String {
    // A comma in a value is written twice.
    format!("driver=file,node-name={name},filename={}", file.display().to_string().replace(',', ",,"))
}

/// The child is killed when the thread that starts it ends.
pub fn die_with_parent(command: &mut Command) {
    at_exec(command, Vec::new());
}

/// QEMU must not outlive the test that started it, however that ends; and it inherits the named descriptors.
#[allow(unsafe_code)]
fn at_exec(command: &mut Command, keep: Vec<RawFd>) {
    use std::os::unix::process::CommandExt;
    let set_up = move || {
        // SAFETY: prctl(2) with this option reads only its arguments.
        if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        for fd in &keep {
            // SAFETY: fcntl(2) with F_SETFD takes a number; the descriptors are open in the parent, which holds
            // them until the child was started.
            if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure only makes system calls; it allocates nothing and takes no lock.
    unsafe { command.pre_exec(set_up) };
}

/// QEMU's own control socket (QMP).
#[derive(Debug)]
struct Monitor {
    input: UnixStream,
    output: BufReader<UnixStream>,
}

impl Monitor {
    fn command(&mut self, name: &str, arguments: Value) -> Result<Value> {
        let line = json!({ "execute": name, "arguments": arguments });
        writeln!(self.input, "{line}")?;
        self.output.get_ref().set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut answer = String::new();
        loop {
            answer.clear();
            if self.output.read_line(&mut answer)? == 0 {
                return Err(format!("QEMU closed its control socket at {name}").into());
            }
            let mut value: Value = serde_json::from_str(&answer)?;
            if let Some(error) = value.get("error") {
                return Err(format!("QEMU refused {name}: {error}").into());
            }
            // Greetings and events come in between.
            if let Some(result) = value.get_mut("return") {
                return Ok(result.take());
            }
        }
    }
}

/// A running machine; dropping it ends it.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    /// The serial console, `/dev/ttyS0`.
    pub console: Console,
    /// The second console, `/dev/hvc0`.
    pub second: Console,
    use_second: bool,
    monitor: Monitor,
    started: Instant,
    limit: Duration,
}

impl Qemu {
    /// Waits for text on the serial console; gives what came before it.
    ///
    /// # Errors
    /// When time runs out, or the machine ends first.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        let limit = self.limit;
        self.console.expect(text, limit)
    }

    /// Types a line on the serial console.
    ///
    /// # Errors
    /// When the machine has ended.
    pub fn type_line(&mut self, line: &str) -> Result {
        self.console.send(&format!("{line}\n"))
    }

    /// Runs a command in the machine; it must succeed. Gives its output.
    ///
    /// # Errors
    /// When it exits with other than 0, or does not answer in time.
    pub fn run(&mut self, command: &str) -> Result<String> {
        let limit = self.limit;
        self.shell().run(command, limit)
    }

    /// Runs a command in the machine; gives its code and output.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn answer(&mut self, command: &str) -> Result<Answer> {
        let limit = self.limit;
        self.shell().answer(command, limit)
    }

    fn shell(&mut self) -> &mut Console {
        if self.use_second { &mut self.second } else { &mut self.console }
    }

    /// Presses the power button (ACPI).
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn press_power_button(&mut self) -> Result {
        self.monitor.command("system_powerdown", json!({})).map(drop)
    }

    /// Pulls the plug: QEMU is killed, and what the machine had not written is lost.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn cut_power(mut self) -> Result {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Plugs a disk in while the machine runs.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn plug_in(&mut self, name: &str, file: &Path) -> Result {
        let node = json!({ "driver": "file", "node-name": name, "filename": file });
        self.monitor.command("blockdev-add", node)?;
        let device = json!({ "driver": "virtio-blk-pci", "id": format!("{name}-device"), "drive": name });
        self.monitor.command("device_add", device).map(drop)
    }

    /// Pulls a disk out while the machine runs: one that was plugged in by its name, or `disk0`, `disk1` … of those that
    /// it was started with.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn pull_out(&mut self, name: &str) -> Result {
        self.monitor.command("device_del", json!({ "id": format!("{name}-device") })).map(drop)
    }

    /// Presses Ctrl, Alt and Del.
    ///
    /// # Errors
    /// When QEMU refuses.
    pub fn press_ctrl_alt_del(&mut self) -> Result {
        let key = |name: &str| json!({ "type": "qcode", "data": name });
        let keys = json!({ "keys": [key("ctrl"), key("alt"), key("delete")] });
        self.monitor.command("send-key", keys).map(drop)
    }

    /// Waits until the machine has switched itself off. A reset ends QEMU too.
    ///
    /// # Errors
    /// When it is still running at the limit, or QEMU failed.
    pub fn wait_for_power_off(&mut self) -> Result {
        let limit = self.limit;
        self.console.closed(limit)?;
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("QEMU ended with {status}").into()) }
    }

    /// Longest wait for anything, stretched for an emulated processor.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Since power-on.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
