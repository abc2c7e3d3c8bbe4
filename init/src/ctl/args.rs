//! The command line as it is typed. What it means is in [`super::todo`].

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand};

/// A number; what the standard library says of others is about digits.
fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "a number is needed, such as 20".to_owned())
}

/// Talks to init: applies state files, shows and steers units.
///
/// A UNIT is an address such as service:nginx or file:/etc/motd, or a bare name that only one unit has.
#[derive(Debug, Parser)]
#[command(name = "initctl", version, max_term_width = 100)]
#[command(
    after_help = "First steps: `initctl check state.toml` finds mistakes, `initctl plan state.toml` shows what would\n\
be done, `initctl apply state.toml` does it, `initctl status` shows how it stands; `initctl\n\
explain service` and `initctl explain vars` say what may stand in a state file.\n\n\
Exit codes: 0 done; 1 a unit is failed or not kept; 2 bad usage or state file;\n\
3 no connection, or a unit that is not ready (status UNIT); 4 somebody else changed the\n\
generation first; 5 returned to the old generation; 6 the return is incomplete; 124 time ran out."
)]
pub struct Args {
    /// Control socket [default: $HOLDFAST_SOCKET, else /run/holdfast/control]
    #[arg(long, value_name = "PATH", global = true, display_order = 100)]
    pub socket: Option<PathBuf>,

    /// Answer in JSON (docs/cli.md)
    #[arg(long, global = true, display_order = 101)]
    pub json: bool,

    /// Give up waiting after this long, with code 124; what was begun goes on
    #[arg(long, value_name = "DURATION", global = true, display_order = 102)]
    pub timeout: Option<String>,

    /// Read this store without init [default: $HOLDFAST_STORE]; generations, diff, history
    #[arg(long, value_name = "DIR", global = true, display_order = 103)]
    pub store: Option<PathBuf>,

    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a state file the new generation
    Apply(Apply),
    /// Show what an apply would do, and why
    Plan {
        /// What would be applied.
        #[command(flatten)]
        state: State,
        /// Show units with nothing to do too
        #[arg(long)]
        all: bool,
    },
    /// Look for mistakes in a state file; needs no init
    Check {
        /// State file; - is standard input
        file: PathBuf,
        /// Among the layers of the machine, as this one; needs init
        #[arg(long, value_name = "NAME")]
        layer: Option<String>,
    },
    /// Show units; those that are as declared are counted
    Status {
        /// These only, in detail
        #[arg(value_name = "UNIT")]
        units: Vec<String>,
        /// List every unit
        #[arg(long)]
        all: bool,
    },
    /// Start units; lifts their holds
    Start(Units),
    /// Stop units and hold them down
    Stop(Units),
    /// Stop and start units
    Restart(Units),
    /// Have units load their configuration again
    Reload(Units),
    /// Freeze the processes of units
    Pause(Units),
    /// Let frozen units run again
    Resume(Units),
    /// Leave units alone: no restart, no repair
    Hold {
        /// Which units.
        #[command(flatten)]
        units: Units,
        /// How long, such as 1h; until boot without
        #[arg(long = "for", value_name = "DURATION")]
        duration: Option<String>,
        /// Why, for those who read the status
        #[arg(long, value_name = "TEXT")]
        why: Option<String>,
    },
    /// Lift the holds of units
    Release(Units),
    /// Print the patch to the state file that declares a unit as it is now
    Adopt {
        /// Which unit
        #[arg(value_name = "UNIT")]
        unit: String,
    },
    /// Signal the main process of units
    Kill {
        /// Which units.
        #[command(flatten)]
        units: Units,
        /// Signal, by name or number
        #[arg(short, long, value_name = "SIGNAL", default_value = "TERM")]
        signal: String,
    },
    /// Show the output of services
    Logs {
        /// Of this one only
        #[arg(value_name = "UNIT")]
        unit: Option<String>,
        /// Go on with what comes
        #[arg(short, long)]
        follow: bool,
        /// Only the last lines
        #[arg(short = 'n', long, value_name = "N", value_parser = number::<u32>)]
        lines: Option<u32>,
    },
    /// Show what happens from now on
    Events,
    /// Wait until the machine is converged, or a unit is ready; for the socket too
    Wait {
        /// Nothing is to be done any more (the default)
        #[arg(long)]
        converged: bool,
        /// This unit is ready; may be repeated
        #[arg(long, value_name = "UNIT")]
        ready: Vec<String>,
    },
    /// List generations
    Generations,
    /// Return to a generation; without a number to the one before the current
    Rollback {
        /// Which
        #[arg(value_name = "N", value_parser = number::<u64>)]
        generation: Option<u64>,
        /// Try one again whose apply failed
        #[arg(long)]
        force: bool,
    },
    /// Compare two generations; without numbers the current one with the one before
    Diff {
        /// The old one
        #[arg(value_name = "FROM", value_parser = number::<u64>)]
        from: Option<u64>,
        /// The new one
        #[arg(value_name = "TO", value_parser = number::<u64>)]
        to: Option<u64>,
    },
    /// List what was replaced on the machine, when and why; print a saved version
    History {
        /// Of this unit only
        #[arg(value_name = "UNIT")]
        unit: Option<String>,
        /// Print what this version held; its id, or the start of it
        #[arg(long, value_name = "ID", requires = "unit")]
        show: Option<String>,
    },
    /// Say why a unit is as it is, or what a key means (service.exec)
    Explain {
        /// A unit; or a kind (service), a key (service.exec), vars, include
        #[arg(value_name = "UNIT|KEY")]
        what: String,
    },
    /// Draw units with what they need
    Tree,
    /// Compare the whole machine with the current generation; changes nothing
    Verify {
        /// Show units that are right too
        #[arg(long)]
        all: bool,
    },
    /// Have init execute its program again; no service notices
    Reexec,
    /// Switch the machine off, in order
    Poweroff(Down),
    /// Boot the machine again, in order
    Reboot(Down),
    /// Stop the machine without switching it off
    Halt(Down),
}

/// A state, and which layer of the generation it is.
#[derive(Debug, Group)]
pub struct State {
    /// State file; - is standard input
    #[arg(required_unless_present = "remove")]
    pub file: Option<PathBuf>,
    /// As this layer: local, dropin:NAME or dpkg:PACKAGE; the others stay [default: main]
    #[arg(long, value_name = "NAME")]
    pub layer: Option<String>,
    /// Take the layer away
    #[arg(long, requires = "layer", conflicts_with = "file")]
    pub remove: bool,
}

/// `apply`.
#[derive(Debug, Group)]
pub struct Apply {
    /// What.
    #[command(flatten)]
    pub state: State,
    /// Show what would be done, as plan does
    #[arg(long)]
    pub dry_run: bool,
    /// Only if this is the current generation, else code 4
    #[arg(long, value_name = "N", value_parser = number::<u64>)]
    pub if_generation: Option<u64>,
    /// Lift all holds
    #[arg(long)]
    pub release: bool,
    /// Not there yet.
    #[arg(long, hide = true)]
    pub watch: bool,
    /// Not there yet.
    #[arg(long, hide = true, value_name = "DURATION")]
    pub confirm: Option<String>,
    /// This unit and what it depends on; the rest stays as it is; may be repeated
    #[arg(long, value_name = "UNIT", conflicts_with_all = ["except", "remove"])]
    pub only: Vec<String>,
    /// Everything but this unit, which stays as it is; may be repeated
    #[arg(long, value_name = "UNIT", conflicts_with = "remove")]
    pub except: Vec<String>,
    /// Not there yet.
    #[arg(long, hide = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

/// One or more units.
#[derive(Debug, Group)]
pub struct Units {
    /// Which units
    #[arg(value_name = "UNIT", required = true)]
    pub units: Vec<String>,
}

/// `poweroff`, `reboot`, `halt`.
#[derive(Debug, Group)]
pub struct Down {
    /// If init does not answer: sync, then ask the kernel directly
    #[arg(long)]
    pub force: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn clap_finds_no_fault() {
        super::Args::command().debug_assert();
    }

    #[test]
    fn every_verb_and_flag_is_in_the_manual() {
        let manual = include_str!("../../../docs/cli.md");
        for verb in super::Args::command().get_subcommands() {
            let name = verb.get_name();
            assert!(manual.contains(&format!("`initctl {name}")), "{name}");
            for argument in verb.get_arguments().filter(|a| !a.is_hide_set()) {
                let Some(long) = argument.get_long() else { continue };
                let short = argument.get_short().map(|s| format!("-{s}"));
                let known =
                    manual.contains(&format!("--{long}")) || short.is_some_and(|s| manual.contains(&s));
                assert!(known, "{name} --{long}");
            }
        }
    }
}
