//! `Verify`: the whole machine and the store, compared with the current generation.

use std::fs::{self, File};
use std::path::Path;

use units::Manifest;
use units::kind::Spec;
use units::manifest::flags;

use super::answer::{Asked, Replies, Stop, confine};
use super::machine::{Look, Machine};
use super::shape::{MaybeAll, Verified, Verify, VerifySummary};
use super::wire;
use super::{difference::Body, live};
use crate::plan::Found;
use crate::store::{Store, hex, unhex};

/// Damaged things of the store that are named; further ones are counted.
const NAMED: usize = 100;

/// `Verify`.
///
/// # Errors
/// When the current generation cannot be read.
pub fn verify(asked: &Asked<'_>, replies: &mut Replies) -> Result<(), Stop> {
    let all = wire::parameters::<MaybeAll>(asked.call)?.all.unwrap_or_default();
    let live = live::ask(&asked.options.control);
    confine()?;
    let mut machine = Machine::new(asked.options, live, None)?;
    let (generation, manifest) = machine.current()?;
    machine.begin(&[&manifest]);
    let mut wrong = 0usize;
    for id in manifest.ids() {
        let look = machine.look(&manifest, id, true);
        let by_hand = manifest.flags(id) & (flags::MANUAL | flags::ON_DEMAND) != 0;
        let (outcome, detail) = judged(look, machine.knows_processes(), by_hand);
        let right = outcome == "kept";
        wrong = wrong.saturating_add(usize::from(!right));
        if all || !right {
            let unit = manifest.address(id).to_string();
            replies.send(&Verify::from(Verified { unit, outcome: outcome.into(), detail }))?;
        }
    }
    let store_damaged =
        machine.world.store.as_ref().map(|s| damages(s, &manifest, generation)).unwrap_or_default();
    let units = manifest.len();
    replies.send(&Verify::from(VerifySummary { generation, units, wrong, store_damaged }))
}

/// The outcome of a look, and what differs.
fn judged(look: Look, knows_processes: bool, by_hand: bool) -> (&'static str, String) {
    let Look { seen, reported } = look;
    let held = seen.held.map(|by| format!("held {by}")).unwrap_or_default();
    let with = |text: String| if held.is_empty() { text } else { format!("{text} ({held})") };
    // Its cause may stand behind the state.
    let is = |state: &str, word: &str| state.split(':').next() == Some(word);
    match seen.found {
        Found::Missing => ("drifted", with("missing".to_owned())),
        Found::Wrong(what) => ("drifted", with([what, reported].concat().join(", "))),
        Found::Due(why) => ("drifted", with(format!("has to run: {why}"))),
        Found::NotUp(state) if is(&state, "done") || (by_hand && is(&state, "down")) => ("kept", with(state)),
        Found::NotUp(state) => ("not-kept", with(state)),
        Found::Trouble(why) => ("not-kept", with(why)),
        Found::Right if !reported.is_empty() => ("drifted", with(reported.join(", "))),
        Found::Right if seen.stale => {
            ("not-kept", with("has not loaded the configuration that it should have".to_owned()))
        }
        Found::Unknown if !knows_processes => ("kept", "not looked at: init does not answer".to_owned()),
        Found::Right | Found::Unknown | Found::Leaves(_) | Found::Left(_) => ("kept", held),
    }
}

/// What in the store is not what its name says.
fn damages(store: &Store, current: &Manifest, generation: u64) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for number in store.index().generations.keys() {
        if let Err(e) = store.load(Some(*number)) {
            found.push(format!("generation {number}: {e}"));
        }
    }
    for id in current.ids().filter(|_| generation > 0) {
        if let Some(Spec::File(file)) = current.spec(id)
            && let Some(content) = file.content
            && let Some(lack) = store.lack(&content.digest)
        {
            found.push(format!("content of {} {lack}", current.address(id)));
        }
    }
    for digest in store.index().contents() {
        if let Some(lack) = store.lack(&digest) {
            found.push(format!("content {} of an earlier version {lack}", hex(&digest)));
        }
    }
    found.extend(store.damaged_layers());
    blobs(&store.dir().join("blobs"), &mut found);
    found.extend(
        store.damaged_in_packs().iter().map(|d| format!("content {} is damaged in its pack", hex(d))),
    );
    let more = found.len().saturating_sub(NAMED);
    found.truncate(NAMED);
    if more > 0 {
        found.push(format!("and {more} more"));
    }
    found
}

/// Reads every content once: its name is its digest.
fn blobs(dir: &Path, found: &mut Vec<String>) {
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    for entry in entries(dir).flat_map(|d| entries(&d.path())) {
        let path = entry.path();
        let name = entry.file_name().to_str().and_then(unhex);
        let is = match File::open(&path).map(|mut f| Body::read_digest(&mut f)) {
            Ok(Ok(digest)) => digest,
            Ok(Err(e)) | Err(e) => {
                found.push(format!("{}: {e}", path.display()));
                continue;
            }
        };
        if name != Some(is) {
            found.push(format!("content {} is damaged", path.display()));
        }
    }
}
