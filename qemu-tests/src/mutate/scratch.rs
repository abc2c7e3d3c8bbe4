//! A copy of the workspace with all mutants in it, and the programs that are built of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::sites::{self, Form, Site};
use super::{Mutant, files, schema};
use crate::Result;

/// The switch, which every mutant asks. It lies in the crate that all others use.
const SWITCH: &str = r#"//! Which mutant is the program.
use std::fs::File;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

const UNREAD: u32 = u32::MAX;
const NOTES: u32 = u32::MAX - 1;
static ACTIVE: AtomicU32 = AtomicU32::new(UNREAD);
static SEEN: [AtomicBool; COUNT] = [const { AtomicBool::new(false) }; COUNT];
static FILE: OnceLock<Option<File>> = OnceLock::new();

#[inline(always)]
pub fn is(number: u32) -> bool {
    let active = ACTIVE.load(Relaxed);
    active == number || (active >= NOTES && otherwise(active, number))
}

#[cold]
fn otherwise(active: u32, number: u32) -> bool {
    if active == UNREAD {
        let named = std::env::var("HOLDFAST_MUTANT").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
        ACTIVE.store(named, Relaxed);
        return is(number);
    }
    if !SEEN[number as usize].swap(true, Relaxed)
        && let Some(mut file) = FILE.get_or_init(file).as_ref()
    {
        file.write_all(format!("{number}\n").as_bytes()).expect("written");
    }
    false
}

/// Where a program that cannot be asked says which it asks for.
fn file() -> Option<File> {
    Some(File::create(std::env::var_os("HOLDFAST_NOTED")?).expect("a file"))
}

/// From here on it is this mutant; 0 is none.
pub fn set(number: u32) {
    ACTIVE.store(number, Relaxed);
}

/// From here on it is none, and notes which are asked for.
pub fn note() {
    ACTIVE.store(NOTES, Relaxed);
}

/// Which were asked for since the last call.
pub fn noted() -> Vec<u32> {
    (0..COUNT).filter(|n| SEEN[*n].swap(false, Relaxed)).map(|n| n as u32).collect()
}
"#;

/// The program that looks at one mutant.
const LOOK: &str = "\
fn main() -> std::process::ExitCode {
    use units::mutant::{note, noted, set};
    qemu_tests::mutate::look::main(&qemu_tests::mutate::look::Switch { set, note, noted })
}
";

/// What is in the copy and not in the repository.
const OURS: &[&str] = &["units/src/mutant.rs", "qemu-tests/src/bin/look.rs"];

/// Everything that can be written otherwise.
#[derive(Debug)]
pub struct Mutants {
    /// By number.
    pub all: BTreeMap<u32, Mutant>,
    /// How many do not compile.
    pub left_out: usize,
}

/// What tries them.
#[derive(Debug)]
pub struct Programs {
    /// Looks at mutants with the simulator.
    pub look: PathBuf,
    /// The tests of cm-core.
    pub tests: PathBuf,
    /// What they can be.
    pub mutants: Mutants,
    /// What the copy was made of, so that results of another are not mixed with these.
    pub folder: PathBuf,
}

struct Source {
    file: String,
    text: String,
    sites: Vec<Site>,
    first: u32,
}

/// The mutants of the workspace at `root`, without those of which an earlier run has seen that they do not compile.
///
/// # Errors
/// When something cannot be read.
pub fn mutants(root: &Path, folder: &Path) -> Result<Mutants> {
    let (_, mut all) = sources(root)?;
    let before = all.len();
    let out = known(folder);
    all.retain(|_, m| !out.contains(&m.key()));
    Ok(Mutants { left_out: before - all.len(), all })
}

/// Where the mutants are kept that do not compile.
const LEFT_OUT: &str = "left-out.txt";

fn known(folder: &Path) -> BTreeSet<String> {
    let keys = std::fs::read_to_string(folder.join(LEFT_OUT)).unwrap_or_default();
    keys.lines().map(str::to_owned).collect()
}

fn sources(root: &Path) -> Result<(Vec<Source>, BTreeMap<u32, Mutant>)> {
    let mut sources = Vec::new();
    let mut next = 1;
    let mut mutants = BTreeMap::new();
    for file in files(root)? {
        let text =
            std::fs::read_to_string(root.join(&file)).map_err(|e| format!("cannot read {file}: {e}"))?;
        let sites = sites::find(&text).map_err(|e| format!("cannot read {file}: {e}"))?;
        let first = next;
        let mut same: BTreeMap<(String, String), usize> = BTreeMap::new();
        for site in &sites {
            for other in &site.others {
                let again = same.entry((site.function.clone(), other.change.clone())).or_default();
                let mutant = Mutant {
                    file: file.clone(),
                    line: site.line,
                    function: site.function.clone(),
                    change: other.change.clone(),
                    again: *again,
                    around: text.lines().nth(site.line - 1).unwrap_or_default().trim().to_owned(),
                };
                *again += 1;
                mutants.insert(next, mutant);
                next += 1;
            }
        }
        sources.push(Source { file, text, sites, first });
    }
    Ok((sources, mutants))
}

/// Copies the workspace at `root` to `folder`, writes all mutants and builds.
///
/// # Errors
/// When something cannot be read or written, or does not build even without its mutants.
pub fn build(root: &Path, folder: &Path) -> Result<Programs> {
    let tree = folder.join("tree");
    copy(root, &tree, &files(root)?)?;
    let (sources, mut mutants) = sources(root)?;
    let count = mutants.keys().next_back().map_or(1, |last| last + 1);
    write(&tree.join("units/src/mutant.rs"), &SWITCH.replace("COUNT", &count.to_string()))?;
    write(&tree.join("qemu-tests/src/bin/look.rs"), LOOK)?;
    // Begun with what is known, so that nothing is built twice.
    let keys = known(folder);
    let begin = mutants.iter().filter(|(_, m)| keys.contains(&m.key())).map(|(n, _)| *n).collect();
    let out = what_does_not_compile(&tree, folder, &sources, begin)?;
    let keys: Vec<String> = out.iter().filter_map(|n| mutants.get(n)).map(Mutant::key).collect();
    write(&folder.join(LEFT_OUT), &keys.join("\n"))?;
    mutants.retain(|number, _| !out.contains(number));
    eprintln!("building {} mutants into one program …", mutants.len());
    let look = executable(&cargo(&tree, folder, &["build", "-p", "qemu-tests", "--bin", "look"])?, "look")?;
    let tests =
        executable(&cargo(&tree, folder, &["test", "--no-run", "-p", "cm-core", "--lib"])?, "cm_core")?;
    let mutants = Mutants { all: mutants, left_out: out.len() };
    Ok(Programs { look, tests, mutants, folder: folder.to_path_buf() })
}

/// Leaves out mutants until all others compile.
fn what_does_not_compile(
    tree: &Path,
    folder: &Path,
    sources: &[Source],
    begin: BTreeSet<u32>,
) -> Result<BTreeSet<u32>> {
    let mut out = begin;
    let left = Left::of(sources);
    loop {
        let mut written = BTreeMap::new();
        for source in sources {
            let schema = schema::write(&source.text, &source.sites, source.first, &out, "units::mutant");
            write(&tree.join(&source.file), &schema.text)?;
            written.insert(source.file.as_str(), schema);
        }
        let (good, messages) = cargo_says(tree, folder, &["check", "-p", "cm-core", "--lib"])?;
        if good {
            return Ok(out);
        }
        let before = out.len();
        let mut unexplained = String::new();
        for message in messages.iter().filter(|m| m.pointer("/message/level").is_some_and(|l| l == "error")) {
            let blamed = blamed(message, &written, &left);
            if blamed.is_empty() {
                unexplained += rendered(message);
            }
            out.extend(blamed);
        }
        eprintln!("{} mutants do not compile …", out.len());
        if out.len() == before {
            return Err(
                format!("the copy does not compile, and no mutant is to blame:\n{unexplained}").into()
            );
        }
    }
}

/// The mutants that are to blame for an error of the compiler.
fn blamed(message: &Value, written: &BTreeMap<&str, schema::Schema>, left: &Left) -> BTreeSet<u32> {
    let mut spans: Vec<&Value> =
        message.pointer("/message/spans").and_then(Value::as_array).into_iter().flatten().collect();
    spans.sort_by_key(|s| !s.get("is_primary").is_some_and(|p| p == true));
    let places: Vec<(&schema::Schema, Range<usize>)> = spans
        .iter()
        .filter_map(|span| {
            let name = span.get("file_name")?.as_str()?;
            let schema = written.iter().find(|(file, _)| name.ends_with(*file))?.1;
            let byte = |key: &str| span.get(key)?.as_u64().and_then(|n| usize::try_from(n).ok());
            Some((schema, byte("byte_start")?..byte("byte_end")?))
        })
        .collect();
    let Some((schema, first)) = places.first() else { return BTreeSet::new() };
    let all = places.iter().fold(first.clone(), |all, (_, at)| all.start.min(at.start)..all.end.max(at.end));
    let within = |at: &Range<usize>, of: &BTreeSet<u32>| -> BTreeSet<u32> {
        let marks = schema.marks.iter().filter(|(mark, _)| at.start <= mark.start && mark.end <= at.end);
        marks.flat_map(|(_, numbers)| numbers.clone()).filter(|n| of.contains(n)).collect()
    };
    // Where a way out is missing, what was borrowed or moved before it is used behind it.
    let borrows =
        message.pointer("/message/code/code").and_then(Value::as_str).is_some_and(|c| BORROWS.contains(&c));
    let ways_out = if borrows { within(&all, &left.ways_out) } else { BTreeSet::new() };
    if !ways_out.is_empty() {
        return ways_out;
    }
    // Text that is there for one mutant alone is surely to blame; else who stands around the place.
    let own = places.iter().map(|(schema, at)| schema.to_blame(at)).find(|b| b.len() == 1);
    let around = || places.iter().map(|(schema, at)| schema.to_blame(at)).find(|b| !b.is_empty());
    match own.or_else(around) {
        Some(blamed) => blamed.into_iter().collect(),
        // What is left out may be missed by what stands around it.
        None => within(&all, &left.statements),
    }
}

/// What the compiler calls that something is used while, or after, it is somebody else's.
const BORROWS: &[&str] = &["E0381", "E0382", "E0499", "E0502", "E0503", "E0505", "E0506", "E0597"];

/// Mutants that leave something out.
struct Left {
    statements: BTreeSet<u32>,
    ways_out: BTreeSet<u32>,
}

impl Left {
    fn of(sources: &[Source]) -> Left {
        let (mut statements, mut ways_out) = (BTreeSet::new(), BTreeSet::new());
        for source in sources {
            let mut next = source.first;
            for site in &source.sites {
                for other in &site.others {
                    if site.form == Form::Statement {
                        statements.insert(next);
                        let leaves = ["return", "break", "continue"].map(|w| format!("without {w}"));
                        if leaves.iter().any(|w| other.change.starts_with(w)) {
                            ways_out.insert(next);
                        }
                    }
                    next += 1;
                }
            }
        }
        Left { statements, ways_out }
    }
}

fn command(tree: &Path, folder: &Path, arguments: &[&str]) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What is written otherwise may well be what a lint denies; that it does is what the tests have to find.
    let allowed =
        "-A arithmetic-overflow -A unconditional-panic -A unconditional-recursion -A unreachable-code";
    cargo.env("RUSTFLAGS", format!("-C target-feature=+crt-static {allowed}")).env_remove("CARGO_TARGET_DIR");
    cargo.current_dir(tree).args(arguments).args(["--message-format", "json", "--target-dir"]);
    cargo.arg(folder.join("target"));
    for setting in ["opt-level=2", "debug=0", "incremental=false", "panic='unwind'"] {
        cargo.arg("--config").arg(format!("profile.dev.{setting}"));
    }
    cargo.arg("--config").arg("profile.test.inherits='dev'");
    // Its tests are short, and to compile them well takes longer than to run them.
    cargo.arg("--config").arg("profile.test.package.cm-core.opt-level=1");
    cargo
}

fn cargo_says(tree: &Path, folder: &Path, arguments: &[&str]) -> Result<(bool, Vec<Value>)> {
    let mut cargo = command(tree, folder, arguments);
    cargo.arg("--quiet");
    let done = cargo.output().map_err(|e| format!("cannot run cargo: {e}"))?;
    let said = String::from_utf8_lossy(&done.stdout);
    let messages: Vec<Value> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if !done.status.success()
        && messages.iter().all(|m| m.get("reason").is_none_or(|r| r != "compiler-message"))
    {
        return Err(format!("cargo: {}", String::from_utf8_lossy(&done.stderr)).into());
    }
    Ok((done.status.success(), messages))
}

fn cargo(tree: &Path, folder: &Path, arguments: &[&str]) -> Result<Vec<Value>> {
    let (good, messages) = cargo_says(tree, folder, arguments)?;
    if good {
        return Ok(messages);
    }
    let errors: String = messages.iter().map(rendered).collect();
    Err(format!("the copy does not build:\n{errors}").into())
}

/// What a message of cargo says to people.
fn rendered(message: &Value) -> &str {
    message.pointer("/message/rendered").and_then(Value::as_str).unwrap_or_default()
}

fn executable(messages: &[Value], target: &str) -> Result<PathBuf> {
    let of = |m: &&Value| {
        m.pointer("/target/name").is_some_and(|n| n == target)
            && m.get("executable").is_some_and(Value::is_string)
    };
    let found = messages.iter().rfind(of).and_then(|m| m.get("executable")?.as_str());
    Ok(PathBuf::from(found.ok_or_else(|| format!("cargo has built no {target}"))?))
}

/// Every file that git knows or would, and nothing else.
fn copy(root: &Path, tree: &Path, files: &[String]) -> Result {
    let mut git = Command::new("git");
    git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = git.output().map_err(|e| format!("cannot run git: {e}"))?;
    if !listed.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr)).into());
    }
    let listed = String::from_utf8(listed.stdout)?;
    let wanted: BTreeSet<PathBuf> =
        listed.split_terminator('\0').chain(OURS.iter().copied()).map(|name| tree.join(name)).collect();
    remove_others(tree, &wanted)?;
    for name in listed.split_terminator('\0') {
        // What is written with mutants in it is not written twice: that would be built again.
        let ours = files.iter().any(|f| f == name);
        let from = root.join(name);
        if (ours && tree.join(name).exists()) || !from.is_file() {
            continue;
        }
        let mut content = std::fs::read(&from).map_err(|e| format!("cannot read {name}: {e}"))?;
        if name.ends_with("Cargo.toml") {
            // The workspace's lints are about how code is written.
            content = String::from_utf8(content)?.replace("[lints]\nworkspace = true\n", "").into_bytes();
        }
        if name == "units/src/lib.rs" {
            content.extend(b"\n#[doc(hidden)]\npub mod mutant;\n");
        }
        write_bytes(&tree.join(name), &content)?;
    }
    Ok(())
}

/// Cargo would build what is no longer in the repository.
fn remove_others(folder: &Path, wanted: &BTreeSet<PathBuf>) -> Result {
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_others(&entry.path(), wanted)?;
        } else if !wanted.contains(&entry.path()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result {
    write_bytes(path, text.as_bytes())
}

/// Writes only what differs, since cargo looks at times.
fn write_bytes(path: &Path, content: &[u8]) -> Result {
    if std::fs::read(path).is_ok_and(|old| old == content) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, content).map_err(|e| format!("cannot write {}: {e}", path.display()).into())
}
