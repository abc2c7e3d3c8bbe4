//! `initramfs`: builds images for Holdfast.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use initramfs::{Request, build};

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
}

fn main() -> ExitCode {
    let Verb::Build { image, out, lock, update_lock, cache, programs } = Arguments::parse().verb;
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
        Err(e) => {
            eprintln!("initramfs: {e}");
            let usage = matches!(e, initramfs::Error::Input { .. } | initramfs::Error::Missing { .. });
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}
