//! What can go wrong while an image is built.

use std::path::{Path, PathBuf};

/// A build that could not be finished. The text names the file or package and, where there is one, the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call on a path failed.
    #[error("cannot {verb} {path}: {source}")]
    Io {
        /// What was tried: "read", "create" …
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A program could not be started or failed.
    #[error("cannot {purpose}: {program}: {cause}")]
    Tool {
        /// What it was to do.
        purpose: String,
        /// The program.
        program: String,
        /// Its exit status and the end of what it said.
        cause: String,
    },
    /// A program that the build needs is not installed.
    #[error(
        "cannot find program {program} (Debian package {package}): install it with: apt-get install {package}"
    )]
    Missing {
        /// The program.
        program: String,
        /// The package that has it.
        package: String,
    },
    /// The image file, lock file or state file is wrong.
    #[error("{path}: {message}")]
    Input {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A locked package is in no archive any more.
    #[error(
        "package {name} {version} ({architecture}) of {lock} is not to be had any more from the package archive; \
         --update-lock chooses current versions and writes that file anew, or another one with --lock FILE"
    )]
    Gone {
        /// Package name.
        name: String,
        /// Locked version.
        version: String,
        /// Locked architecture.
        architecture: String,
        /// The lock file.
        lock: PathBuf,
    },
    /// A download has other bytes than the lock file or the archive's index says.
    #[error("package {name} {version} has SHA-256 {found}, not {wanted} as locked")]
    Digest {
        /// Package name.
        name: String,
        /// Version.
        version: String,
        /// As it is.
        found: String,
        /// As it should be.
        wanted: String,
    },
    /// Bytes that are not the format they should be.
    #[error("cannot read {what}: {message}")]
    Format {
        /// What was read.
        what: String,
        /// What is wrong.
        message: String,
    },
}

impl Error {
    /// For `map_err`: names the verb and the path.
    pub fn io(verb: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::Io { verb, path, source }
    }

    /// Whether the same command with `--update-lock` is the way out.
    pub fn wants_new_versions(&self) -> bool {
        matches!(self, Error::Gone { .. })
    }

    /// A mistake in an input file.
    pub fn input(path: impl AsRef<Path>, message: impl Into<String>) -> Error {
        Error::Input { path: path.as_ref().to_path_buf(), message: message.into() }
    }

    /// This, and another one, where both are mistakes in input files: one run names all of them.
    #[must_use]
    pub fn and(self, other: Error) -> Error {
        match (self, other) {
            (Error::Input { path, message }, Error::Input { message: more, .. }) => {
                Error::Input { path, message: format!("{}\n{}", message, more.trim_start()) }
            }
            (first, _) => first,
        }
    }

    /// Damaged bytes.
    pub fn format(what: impl Into<String>, message: impl Into<String>) -> Error {
        Error::Format { what: what.into(), message: message.into() }
    }
}
