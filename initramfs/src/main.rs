//! `initramfs`: builds images for Holdfast.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use initramfs::{Request, build, run};

/// Builds images for Holdfast.
#[derive(Debug, Parser)]
#[command(name = "initramfs", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build a kernel and an initramfs
    Build {
        /// The image file
        image: PathBuf,
        /// Directory of the results
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Lock file [default: the image file with the suffix .lock]
        #[arg(long, value_name = "FILE")]
        lock: Option<PathBuf>,
        /// Choose current package versions and write the lock file anew
        #[arg(long)]
        update_lock: bool,
        /// Where downloads are kept [default: $XDG_CACHE_HOME/holdfast or target/holdfast-cache]
        #[arg(long, value_name = "DIR")]
        cache: Option<PathBuf>,
        /// Directory of init, initctl and cm-worker [default: that of this program]
        #[arg(long, value_name = "DIR")]
        programs: Option<PathBuf>,
    },
    /// Boot an image that was built, in QEMU, with this terminal as its console
    Run {
        /// Directory that build has written to
        dir: PathBuf,
        /// What executes it: kvm (the host's processor) or tcg (emulation) [default: kvm where it works]
        #[arg(long, value_name = "kvm|tcg")]
        accel: Option<run::Accelerator>,
        /// Memory in MiB
        #[arg(long, value_name = "MIB", default_value_t = 768)]
        memory: u32,
        /// Have a TCP port of this machine's loopback lead to one of the guest; may be repeated
        #[arg(long, value_name = "HOST:GUEST", value_parser = run::ports)]
        forward: Vec<(u16, u16)>,
        /// A file that is a disk of the machine: /dev/vda, then /dev/vdb; may be repeated
        #[arg(long, value_name = "FILE")]
        disk: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let (image, out, lock, update_lock, cache, programs) = match Arguments::parse().verb {
        Verb::Build { image, out, lock, update_lock, cache, programs } => {
            (image, out, lock, update_lock, cache, programs)
        }
        Verb::Run { dir, accel, memory, forward, disk } => {
            let machine = run::Machine { accelerator: accel, memory, forward, disks: disk };
            return match run::run(&dir, &machine) {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::FAILURE,
                Err(e) => failed(&e),
            };
        }
    };
    let here = std::env::current_exe().ok().and_then(|p| p.parent().map(PathBuf::from)).unwrap_or_default();
    let request = Request {
        image,
        out,
        lock,
        update_lock,
        cache: cache.unwrap_or_else(initramfs::image::cache),
        programs: programs.unwrap_or(here),
    };
    match build(&request) {
        Ok(built) => {
            if let (Some(kernel), Some(release)) = (&built.kernel, &built.release) {
                println!("kernel     {}  {release}", kernel.display());
            }
            let mib = built.unpacked >> 20;
            println!("initramfs  {}  sha256 {}  {mib} MiB unpacked", built.initramfs.display(), built.digest);
            ExitCode::SUCCESS
        }
        Err(e) => failed(&e),
    }
}

fn failed(e: &initramfs::Error) -> ExitCode {
    eprintln!("initramfs: {e}");
    if e.wants_new_versions() {
        eprintln!("help: {} --update-lock", std::env::args().collect::<Vec<_>>().join(" "));
    }
    let usage = matches!(e, initramfs::Error::Input { .. } | initramfs::Error::Missing { .. });
    ExitCode::from(if usage { 2 } else { 1 })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn every_verb_and_flag_is_in_the_manual() {
        let manual = include_str!("../../docs/image.md");
        for verb in super::Arguments::command().get_subcommands() {
            assert!(manual.contains(&format!("`initramfs {}", verb.get_name())), "{}", verb.get_name());
            for flag in verb.get_arguments().filter_map(clap::Arg::get_long) {
                assert!(flag == "help" || manual.contains(&format!("--{flag}")), "{flag}");
            }
        }
    }
}
